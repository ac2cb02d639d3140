//! `host info`: what this machine and this build have, and what is missing.

use anyhow::{Context, Result};
use host_engine::device::{self, Device, DeviceError, Precision};
use host_engine::{REVISION, machine};
use host_plugin::plugin::CONTRACT;

use super::arguments::InfoArguments;
use super::terminal;
use crate::cell::{Origin, Plugin, PluginKind};
use crate::config::Config;
use crate::config::resolved::threads_of_machine;
use crate::embedded;
use crate::hub::Hub;
use crate::runs::machine::Machine;
use crate::runs::words;

/// Settles what computes, and says so where the machine has decided.
///
/// # Errors
/// A device that this build or this machine does not have; a precision in which
/// it does not compute.
pub fn choose_device(config: &mut Config) -> Result<()> {
    let device = usable(config.device)?;
    device.computes(config.precision)?;
    config.device = Some(device);
    Ok(())
}

/// A device, if this build and this machine have it; without one, what is best here.
///
/// # Errors
/// The device is not to be had.
pub fn usable(device: Option<Device>) -> Result<Device> {
    Ok(match device {
        Some(device) => {
            let there = match device {
                Device::Metal => device::metal(),
                device => device.gpu().map(|_| ()),
            };
            there.with_context(|| format!("the device {device} cannot be used"))?;
            device
        }
        None => {
            let (device, why) = Device::automatic();
            why.iter().for_each(|sentence| terminal::note(&format!("device auto: {sentence}")));
            device
        }
    })
}

pub fn info(arguments: &InfoArguments) -> Result<()> {
    let plugins = arguments.plugins.catalogue()?;
    let folder = arguments.plugins.path()?;
    let mut lines = vec![("program", program())];
    lines.extend(machine_lines());
    lines.extend(device_lines());
    lines.extend(cache_lines());
    for kind in [PluginKind::Method, PluginKind::Task] {
        lines.push((if kind == PluginKind::Method { "methods" } else { "tasks" }, names(&plugins, kind)));
    }
    let folder = folder.map_or("no folder of further ones".into(), |folder| folder.display().to_string());
    lines.push(("plugin folder", folder));
    let text: String = lines.iter().map(|(name, line)| format!("{name:<14}{line}\n")).collect();
    terminal::print(&text)
}

fn program() -> String {
    let built: Vec<&str> = [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect();
    let features =
        if built.is_empty() { String::new() } else { format!(", built with {}", built.join(" and ")) };
    format!("host {}, contract {CONTRACT}, engine revision {REVISION}{features}", env!("CARGO_PKG_VERSION"))
}

fn machine_lines() -> Vec<(&'static str, String)> {
    let machine = Machine::this();
    let sets = match machine.instruction_sets.is_empty() {
        true => "the baseline alone".into(),
        false => machine.instruction_sets.join(" "),
    };
    let free = machine::available_memory().map_or("how much is free is not known".into(), |free| {
        format!("{} of them for this process", words::bytes(free as f64))
    });
    let threads = threads_of_machine();
    let from = match std::env::var_os("SLURM_CPUS_PER_TASK") {
        Some(_) => "what the batch job was given",
        None => "all cores that the process may use",
    };
    vec![
        ("system", machine.system),
        ("processor", format!("{}, {}", machine.processor, words::plural(machine.cores as u64, "core"))),
        ("instructions", sets),
        ("memory", format!("{}, {free}", words::bytes(machine.memory_bytes as f64))),
        ("threads", format!("{threads}, {from}; --threads takes others")),
    ]
}

fn device_lines() -> Vec<(&'static str, String)> {
    let mut lines = vec![("cpu", "kernels of our own".to_string())];
    match device::cuda() {
        Err(DeviceError(missing)) => lines.push(("cuda", missing)),
        Ok(cuda) => {
            let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
            let (driver, build) = (version(cuda.driver), version(cuda.build));
            lines.push(("cuda", format!("the driver goes up to {driver}, the build is of {build}")));
            for gpu in &cuda.gpus {
                lines.push(("", format!("{}: {}", gpu.device, gpu.words())));
                let kernels = gpu.kernels().map_or_else(
                    |why| format!("programs are composed of candle's operations: {why}"),
                    |()| "kernels of our own among candle's operations".into(),
                );
                lines.push(("", kernels));
                let copies = match device::copies_beside() {
                    true => "a second stream copies batches",
                    false => "batches are copied in turn with what is computed: HOST_COPIES is \"in-turn\"",
                };
                lines.push(("", copies.into()));
                let memory = match device::keeps_memory() {
                    true => "a training keeps the memory that it has had until it ends",
                    false => "memory goes back whenever the GPU is waited for: HOST_MEMORY is \"returned\"",
                };
                lines.push(("", memory.into()));
            }
            if cuda.gpus.is_empty() {
                lines.push(("", "the driver shows no GPU".into()));
            }
        }
    }
    lines.push(("metal", device::metal().map_or_else(|error| error.0, |()| "metal: Apple's GPU".into())));
    let (device, _) = Device::automatic();
    let more = [Precision::Tf32, Precision::Bf16].into_iter().filter(|&more| device.computes(more).is_ok());
    let more: Vec<String> = more.map(|more| more.to_string()).collect();
    let more = match more.is_empty() {
        true => String::new(),
        false => format!(", and in {} where the rounding does no harm", more.join(" or ")),
    };
    lines.push(("auto", format!("{device}; in fp32{more}")));
    lines
}

fn cache_lines() -> Vec<(&'static str, String)> {
    let hub = Hub::from_environment();
    let network = match hub.endpoint() {
        Ok(endpoint) => format!("from {endpoint}"),
        Err(variable) => format!("offline: {variable} is set"),
    };
    let own = embedded::cache();
    vec![
        ("hub's files", format!("{}, {network}", hub.cache().display())),
        (
            "own files",
            format!("{}, compiled plugins in {}", own.display(), own.join("compiled-plugins").display()),
        ),
    ]
}

fn names(plugins: &[Plugin], kind: PluginKind) -> String {
    let of_kind = plugins.iter().filter(|plugin| plugin.kind == kind);
    let name = |plugin: &Plugin| match plugin.origin {
        Origin::Embedded => format!("{} {}", plugin.description.name, plugin.description.version),
        Origin::File(_) => format!("{} {} (a file)", plugin.description.name, plugin.description.version),
    };
    of_kind.map(name).collect::<Vec<_>>().join(", ")
}
