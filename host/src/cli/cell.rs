//! `host cell`: the child process of `host run` that trains one cell, so that
//! the cell has its own peak memory, and that what kills it kills it alone.
//!
//! Exit codes: 0 trained, 1 failed with the reason in `failure.txt`, 75 told to end with
//! its checkpoint written, 101 after a panic, a signal where one ended it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::arguments::CellArguments;
use super::progress::Reporter;
use super::{interrupt, terminal};
use crate::cell::Interrupted;
use crate::runs::machine::Machine;
use crate::runs::record::{
    CHECKPOINT, CellJob, CellRecord, FAILURE, LOG, RESULT, Saved, read_json, remove, write_json, write_whole,
};
use crate::runs::words;
use crate::session;

/// Trains a cell and leaves its record, or the reason why there is none.
pub fn train(arguments: &CellArguments) -> ExitCode {
    end_with_parent();
    be_the_first_out_of_memory();
    log_panics(&arguments.directory);
    match record(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.chain().any(|cause| cause.is::<Interrupted>()) => {
            ExitCode::from(interrupt::TRY_AGAIN)
        }
        Err(error) => {
            // The parent reports it, at once and in its summary.
            let reason =
                error.chain().map(|cause| cause.to_string()).collect::<Vec<_>>().join("\n  because: ");
            log(&arguments.directory, &format!("error: {reason}"));
            match write_whole(&arguments.directory.join(FAILURE), &reason) {
                Ok(()) => ExitCode::FAILURE,
                Err(_) => terminal::report(&error),
            }
        }
    }
}

fn record(arguments: &CellArguments) -> Result<()> {
    let job: CellJob = read_json(&arguments.job)?;
    let mut progress = Reporter::writing(&arguments.directory)?;
    let result = session::train_cell(&job.spec, &job.identity, &arguments.directory, &mut progress);
    progress.finish();
    let result = result?;
    let record = CellRecord {
        identity: job.identity,
        digests: job.digests,
        peak_memory_bytes: job.spec.device.peak_memory().max(result.earlier.peak_memory_bytes),
        result,
        spec: job.spec,
        machine: Machine::this(),
        finished: words::now(),
        host_version: env!("CARGO_PKG_VERSION").into(),
        saved: Saved::in_directory(&arguments.directory)?,
    };
    write_json(&arguments.directory.join(RESULT), &record)?;
    remove(&arguments.directory.join(CHECKPOINT))
}

/// Adds a line to the cell's log, as well as it can.
fn log(directory: &Path, line: &str) {
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(directory.join(LOG)) {
        let _ = writeln!(file, "{} {line}", words::now());
    }
}

/// The parent says what the panic said, which is otherwise far up in its output.
fn log_panics(directory: &Path) {
    let directory = directory.to_path_buf();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log(&directory, &panic.to_string());
        let _ = fs::write(directory.join(FAILURE), panic.to_string());
        print(panic);
    }));
}

/// A parent that is killed takes its cell with it, at once: the next run may be in its
/// directory before another step is made.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call sets a number of this process and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

/// Where memory runs out, the kernel ends this process rather than the run.
fn be_the_first_out_of_memory() {
    // Absent or forbidden on some systems, where the kernel's own choice stands.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
}
