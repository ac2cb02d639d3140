//! The machine that a cell was trained on, for its record, and the memory that
//! the process has taken.

use std::fs;

use serde::{Deserialize, Serialize};

use super::words;

/// Where a cell was trained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub host: String,
    pub system: String,
    pub processor: String,
    /// Cores that the process may use.
    pub cores: usize,
    pub memory_bytes: u64,
    /// The batch job, if it was one.
    pub slurm_job: Option<String>,
}

impl Machine {
    /// The machine that this process runs on. What cannot be read is empty.
    pub fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or(String::new(), |(_, value)| value.trim().into())
        };
        let release = read("/proc/sys/kernel/osrelease");
        Machine {
            host: read("/proc/sys/kernel/hostname").trim().into(),
            system: format!("{} {} {}", std::env::consts::OS, release.trim(), std::env::consts::ARCH),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes(&field(&read("/proc/meminfo"), "MemTotal")).unwrap_or(0),
            slurm_job: std::env::var("SLURM_JOB_ID").ok(),
        }
    }

    /// One line that describes it.
    pub fn words(&self) -> String {
        let mut parts = vec![self.host.clone(), self.system.clone(), self.processor.clone()];
        parts.push(words::plural(self.cores as u64, "core"));
        parts.push(words::bytes(self.memory_bytes as f64));
        parts.extend(self.slurm_job.as_ref().map(|job| format!("Slurm job {job}")));
        parts.retain(|part| !part.trim().is_empty());
        parts.join(", ")
    }
}

/// `1024 kB` of a file of /proc in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The most memory that this process has held, in bytes.
///
/// The kernel's high-water mark of the process's own pages. `getrusage` serves
/// where there is no /proc, but counts what the parent held before `exec`.
pub fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    mark.and_then(kibibytes).unwrap_or_else(resource_usage)
}

fn resource_usage() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the struct that it is given, which zeros are valid for too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    usage.ru_maxrss as u64 * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_counts() {
        let before = peak_memory_bytes();
        let block = vec![1u8; 64 << 20];
        let touched: u64 = block.iter().step_by(4096).map(|&byte| u64::from(byte)).sum();
        assert_eq!(touched, 16384);
        assert!(peak_memory_bytes() >= before.max(64 << 20));
        assert!(resource_usage() >= 64 << 20);
    }

    #[test]
    fn the_machine_has_cores() {
        let machine = Machine::this();
        assert!(machine.cores >= 1);
        assert!(machine.words().contains("core"));
    }
}
