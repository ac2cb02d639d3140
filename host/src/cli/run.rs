//! `host run`: every cell of a config, each in a child process, and their
//! comparison.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};

use super::arguments::RunArguments;
use super::{interrupt, sources, terminal};
use crate::cell::{CellSpec, Digests, Interrupted};
use crate::config::write::to_toml;
use crate::runs::comparison::Comparison;
use crate::runs::directory::{Place, RunDirectory};
use crate::runs::identity::identity;
use crate::runs::record::{CellJob, FAILURE, Finished, LOG, SPEC, write_json};
use crate::runs::{report, table, words};
use crate::session;

pub fn run(arguments: &RunArguments) -> Result<()> {
    let config = sources::ready(&arguments.config)?;
    let cells = config.cells();
    // Model, data and task are the run's, so their digests are every cell's.
    let Some(first) = cells.first() else { bail!("the config has no cell") };
    let digests = session::digests(first)?;

    let path = arguments.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.name));
    if arguments.config.smoke && path.join("cells").is_dir() {
        // Every step is tried again, whatever was tried before.
        fs::remove_dir_all(path.join("cells")).with_context(|| path.display().to_string())?;
    }
    let directory = RunDirectory::open(&path)?;
    let text = to_toml(&config, &command());
    if let Some(earlier) = directory.write_config(&text)? {
        // A run that was stopped before its end has left no comparison.
        let what = if earlier.join("report.html").exists() { "comparison is" } else { "config is" };
        terminal::note(&format!("the config has changed; the earlier {what} in {}", earlier.display()));
    }
    terminal::note(&format!(
        "{} ({} and {}) in {}",
        words::plural(cells.len() as u64, "cell"),
        words::plural(config.methods.len() as u64, "method"),
        words::plural(config.seeds.len() as u64, "seed"),
        path.display()
    ));
    for (split, files) in session::data_files(first)? {
        terminal::note(&format!("  {split}: {}", files_words(&files)));
    }

    let mut finished = Vec::new();
    let mut failures = Vec::new();
    let mut failed = Vec::new();
    interrupt::watch();
    for (number, spec) in cells.iter().enumerate() {
        terminal::heading(&format!("[{}/{}] {}", number + 1, cells.len(), spec.title()));
        let trained = cell(&directory, spec, &digests);
        let interrupted = |error: &anyhow::Error| error.is::<Interrupted>();
        if interrupt::came().is_some() || trained.as_ref().is_err_and(interrupted) {
            // The next run may be on another machine, where only an empty lock is nobody's.
            drop(directory);
            interrupt::end(&format!(
                "interrupted: the same command goes on; {} finished",
                match finished.len() + usize::from(trained.is_ok()) {
                    1 => "1 cell is".into(),
                    count => format!("{count} cells are"),
                }
            ));
        }
        match trained {
            Ok(cell) => {
                terminal::note(&format!("  {}", outcome(&cell)));
                finished.push(cell);
            }
            Err(error) => {
                let causes: Vec<String> = error.chain().map(|cause| cause.to_string()).collect();
                let sentence = format!("{}: {}", spec.title(), causes.join(": "));
                terminal::note(&format!("  failed: {}", causes.join(": ")));
                failures.push(sentence);
                failed.push(spec.title());
            }
        }
    }

    if !finished.is_empty() {
        let comparison = Comparison::new(finished, None).with_failed(failures.clone());
        table::write(&comparison, &path)?;
        report::write(&comparison, &config.name, &text, &path)?;
        terminal::note("");
        terminal::print(&table::for_terminal(&comparison, terminal::width()))?;
        terminal::note(&format!("report: {}", path.join("report.html").display()));
    }
    if !failures.is_empty() {
        let of = words::plural(cells.len() as u64, "cell");
        // Each has said why, under its heading.
        bail!("{} of {of} failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

/// Files of a split, of many the first.
fn files_words(files: &[PathBuf]) -> String {
    match files {
        [] => String::new(),
        [file] => file.display().to_string(),
        [first, rest @ ..] => {
            format!("{} and {}", first.display(), words::plural(rest.len() as u64, "more file"))
        }
    }
}

/// The command as it was given, for the first line of the resolved config.
fn command() -> String {
    let quoted =
        |argument: String| match argument.chars().all(|c| c.is_alphanumeric() || "-_./=,:+".contains(c)) {
            true => argument,
            false => format!("'{}'", argument.replace('\'', "'\\''").replace('\n', " ")),
        };
    let arguments = std::env::args_os().skip(1).map(|argument| quoted(argument.to_string_lossy().into()));
    format!("host {}", arguments.collect::<Vec<_>>().join(" "))
}

/// A cell that is finished, now or earlier.
fn cell(run: &RunDirectory, spec: &CellSpec, digests: &Digests) -> Result<Finished> {
    let identity = identity(spec, digests);
    let directory = run.cell(spec, &identity);
    match run.place(&directory, &identity)? {
        Place::Finished(mut finished) => {
            terminal::note("  finished earlier, not trained again");
            let warnings = finished.record.result.warnings.iter();
            warnings.for_each(|sentence| terminal::note(&format!("  warning: {sentence}")));
            // The row is called what this config calls it.
            finished.record.spec.label = spec.label.clone();
            return Ok(*finished);
        }
        Place::Free { set_aside: Some(why) } => terminal::note(&format!("  {why}; trained anew")),
        Place::Free { set_aside: None } | Place::Begun => {}
    }
    let job = CellJob { identity, digests: digests.clone(), spec: spec.clone() };
    let file = directory.join(SPEC);
    write_json(&file, &job)?;
    let program = own_program()?;
    let child = Command::new(&program).arg("cell").arg(&file).arg(&directory).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", program.display()))?;
    let status = interrupt::wait(&mut child).context("cannot wait for the process of the cell")?;
    if status.code() == Some(interrupt::TRY_AGAIN.into()) {
        bail!(Interrupted);
    }
    if !status.success() {
        let log = directory.join(LOG);
        let log = if log.exists() { log } else { directory.clone() };
        bail!("{}; the log is {}", failure(status, &directory), log.display());
    }
    Finished::read(&directory).context("the cell has ended without a result")
}

/// Why a child process has failed, as a sentence.
fn failure(status: ExitStatus, directory: &Path) -> String {
    let reason = fs::read_to_string(directory.join(FAILURE)).ok().map(|text| text.trim_end().to_string());
    match (status.code(), status.signal()) {
        (Some(101), _) => {
            let said = reason.map_or(String::new(), |said| format!(" ({})", said.replace('\n', " ")));
            format!("the program panicked{said}, which is an error of its own and worth a report")
        }
        (Some(code), _) => {
            reason.unwrap_or_else(|| format!("its process ended with exit code {code} and gave no reason"))
        }
        (None, Some(libc::SIGKILL)) => {
            "its process was killed, most often because memory ran out: a smaller \
             training.per_device_train_batch_size with training.gradient_accumulation_steps needs less"
                .into()
        }
        (None, Some(libc::SIGABRT)) => {
            "its process was aborted, most often because memory could not be had".into()
        }
        (None, Some(libc::SIGTERM | libc::SIGINT)) => "its process was told to end".into(),
        (None, signal) => format!("its process was ended by signal {}", signal.unwrap_or(0)),
    }
}

/// What came of a cell, in a line.
fn outcome(cell: &Finished) -> String {
    let (record, result) = (&cell.record, &cell.record.result);
    let in_parts = match result.earlier.steps.len() {
        0 => String::new(),
        earlier => format!(" in {} parts", earlier + 1),
    };
    let mut parts = vec![
        format!("trained in {}{in_parts}", words::duration(result.training_seconds)),
        format!("peak memory {}", words::bytes(record.peak_memory_bytes as f64)),
    ];
    let chosen = result.best_metric.as_ref().map(|best| best.name.as_str());
    for evaluated in &result.metrics {
        let first = evaluated.metrics.0.first().map(|(name, _)| name.as_str());
        let name = chosen.or(first).unwrap_or_default();
        let value = evaluated.metrics.get(name);
        parts.extend(value.map(|value| format!("{} {} {value:.4}", evaluated.split, words::metric(name))));
    }
    parts.join(", ")
}

/// The program that runs. On Linux its own image, which is there even when its
/// file was replaced by a newer build meanwhile.
pub(super) fn own_program() -> Result<PathBuf> {
    let image = Path::new("/proc/self/exe");
    if image.exists() {
        return Ok(image.into());
    }
    std::env::current_exe().context("this program does not find its own file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::record::tests::finished;

    #[test]
    fn every_end_of_a_child_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let sentence = |raw| failure(ExitStatus::from_raw(raw), folder.path());
        assert!(sentence(9).contains("memory ran out"));
        assert!(sentence(6).contains("memory could not be had"));
        assert!(sentence(15).contains("told to end"));
        assert_eq!(sentence(11), "its process was ended by signal 11");
        assert!(sentence(101 << 8).contains("panicked"));
        assert_eq!(sentence(1 << 8), "its process ended with exit code 1 and gave no reason");
        fs::write(folder.path().join(FAILURE), "the data has no split train\n").unwrap();
        assert_eq!(sentence(1 << 8), "the data has no split train");
        assert!(sentence(101 << 8).starts_with("the program panicked (the data has no split train), "));
    }

    #[test]
    fn a_cell_ends_with_a_line() {
        assert_eq!(
            outcome(&finished("a", 1, 0.5)),
            "trained in 1 min 21 s, peak memory 512 MiB, dev accuracy 0.2500, test accuracy 0.5000"
        );
        let mut interrupted = finished("a", 1, 0.5);
        interrupted.record.result.earlier.steps = vec![3, 3];
        assert!(outcome(&interrupted).starts_with("trained in 1 min 21 s in 3 parts, "));
    }
}
