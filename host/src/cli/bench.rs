//! `host bench`: what training costs on this machine, without training.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::arguments::BenchArguments;
use super::run::own_program;
use super::{sources, terminal};
use crate::benchmark::{BenchmarkSpec, Measured};
use crate::runs::table::{PLAIN, draw};
use crate::runs::words;
use crate::session;

/// Kinds of instruction that the profile names.
const PROFILED: usize = 12;

pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let config = sources::ready(&arguments.config)?;
    // Time and memory do not depend on the seed: the first stands for all.
    let cells: Vec<_> =
        config.cells().chunks(config.seeds.len()).filter_map(|cells| cells.first().cloned()).collect();
    let (mut measured, mut failures) = (Vec::new(), Vec::new());
    for mut cell in cells {
        if let Some(batch) = arguments.batch {
            cell.training.per_device_train_batch_size = batch;
            cell.training.train_batch_tokens = None;
        }
        terminal::note(&format!("measuring {}", cell.label));
        let spec = BenchmarkSpec {
            length: arguments.length,
            steps: arguments.steps as usize,
            warmup_steps: arguments.warmup_steps,
            profile: arguments.profile,
            cell,
        };
        match child(&spec) {
            Ok(result) => measured.push(result),
            Err(error) => failures.push(format!("{}: {error:#}", spec.cell.label)),
        }
    }
    if arguments.json {
        terminal::print(&format!("{}\n", serde_json::to_string_pretty(&measured)?))?;
    } else if let Some(first) = measured.first() {
        let machine = format!(
            "{}; {} {}, {}, peak {:.0} GFLOP/s\n",
            first.machine.words(),
            first.device,
            first.precision,
            words::plural(first.threads as u64, "thread"),
            first.peak_operations_per_second / 1e9,
        );
        terminal::print(&format!("{}{machine}", table(&measured)))?;
        if arguments.profile {
            measured.iter().try_for_each(|result| terminal::print(&profile(result)))?;
        }
    }
    if !failures.is_empty() {
        bail!("not measured\n  {}", failures.join("\n  "));
    }
    Ok(())
}

/// Measures in a process of its own, whose memory is the cell's alone.
fn child(spec: &BenchmarkSpec) -> Result<Measured> {
    let program = own_program()?;
    let mut child = Command::new(&program)
        .arg("bench-cell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&serde_json::to_vec(spec)?).context("the child process takes no input")?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("its process ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the child process gave no result")
}

/// The child process of `host bench`.
pub fn cell() -> ExitCode {
    let started = Instant::now();
    let result = serde_json::from_reader(std::io::stdin().lock())
        .context("no benchmark is given")
        .and_then(|spec| session::measure(&spec, started))
        .and_then(|measured| terminal::print(&serde_json::to_string(&measured)?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::report(&error),
    }
}

fn table(measured: &[Measured]) -> String {
    let heads = [
        "method",
        "trained\nparameters",
        "tokens\na step",
        "seconds\na step",
        "tokens/s",
        "examples/s",
        "an epoch",
        "evaluation\ntokens/s",
        "share of\npeak",
        "peak\nmemory",
        "estimated",
    ];
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|result| {
            let epoch = result.tokens_per_step * result.steps_per_epoch as f64 / result.tokens_per_second;
            vec![
                result.label.clone(),
                words::count(result.trained_parameters),
                words::count(result.tokens_per_step as u64),
                format!("{:.3}", result.seconds_per_step),
                words::count(result.tokens_per_second as u64),
                format!("{:.1}", result.examples_per_second),
                words::duration(epoch),
                words::count(result.evaluation_tokens_per_second as u64),
                format!("{:.0}%", 100.0 * result.share_of_peak),
                words::bytes(result.peak_memory_bytes as f64),
                words::bytes(result.estimated_memory_bytes as f64),
            ]
        })
        .collect();
    draw(PLAIN, &heads.map(String::from), &rows)
}

/// Where a step's time goes.
fn profile(result: &Measured) -> String {
    let total: f64 = result.profile.iter().map(|(_, seconds)| seconds).sum();
    let mut text = format!("\n{}, seconds a step by kind of instruction\n", result.label);
    for (kind, seconds) in result.profile.iter().take(PROFILED) {
        text.push_str(&format!("  {kind:<24} {seconds:>8.4}  {:>4.1}%\n", 100.0 * seconds / total));
    }
    text
}
