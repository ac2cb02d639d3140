//! The record of a finished cell, `result.json`: written last and at once, so
//! that a directory that has one is complete.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::words;
use crate::cell::{CellResult, CellSpec, Digests};

/// Names of the files of a cell's directory that the command line writes.
pub const RESULT: &str = "result.json";
pub const SPEC: &str = "cell.json";
pub const LOG: &str = "log.txt";
pub const FAILURE: &str = "failure.txt";
/// A line of JSON for each epoch, and for about every two hundredth of the steps.
pub const EPOCHS: &str = "epochs.jsonl";
pub const STEPS: &str = "steps.jsonl";

/// From which a cell that was interrupted goes on; a finished one has none.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// What the session writes beside them and nothing can be loaded without: the method's plan,
/// and what was trained.
pub const PLAN: &str = "plan.json";
pub const ADAPTER: &str = "adapter.safetensors";

/// What the parent tells the child that trains a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellJob {
    pub identity: String,
    pub digests: Digests,
    pub spec: CellSpec,
}

/// A finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    pub identity: String,
    pub digests: Digests,
    pub spec: CellSpec,
    pub result: CellResult,
    /// Of the child process that trained it.
    pub peak_memory_bytes: u64,
    pub machine: Machine,
    /// When it was finished, in UTC.
    pub finished: String,
    pub host_version: String,
    /// [`PLAN`] and [`ADAPTER`] as they were saved; older records say nothing of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub saved: BTreeMap<String, Saved>,
}

/// A file as it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub bytes: u64,
    pub digest: String,
}

impl Saved {
    /// The file as it is now.
    fn now(path: &Path) -> Result<Saved> {
        let bytes = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        Ok(Saved { bytes, digest: host_engine::files::digest(&[path.to_path_buf()])? })
    }

    /// What a directory has of [`PLAN`] and [`ADAPTER`].
    ///
    /// # Errors
    /// A file that is missing or cannot be read.
    pub fn in_directory(directory: &Path) -> Result<BTreeMap<String, Saved>> {
        [PLAN, ADAPTER]
            .iter()
            .map(|name| Ok((name.to_string(), Saved::now(&directory.join(name))?)))
            .collect()
    }
}

/// Training between two lines of [`STEPS`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The last of the steps.
    pub step: u64,
    /// Mean loss of the steps.
    pub loss: f64,
    pub learning_rate: f64,
    /// Epochs are not known to a step; seconds since the start are.
    pub seconds: f64,
}

/// A finished cell and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub directory: PathBuf,
    pub record: CellRecord,
    pub steps: Vec<StepRecord>,
}

impl Finished {
    /// Reads a cell's directory.
    ///
    /// # Errors
    /// No record, or one that cannot be read.
    pub fn read(directory: &Path) -> Result<Finished> {
        let record = read_json(&directory.join(RESULT))?;
        // The curve is for the report only: a cell without one is complete.
        let steps = fs::read_to_string(directory.join(STEPS)).unwrap_or_default();
        let steps = steps.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Finished { directory: directory.to_path_buf(), record, steps })
    }

    /// What is missing of what was saved, or has another size; contents are not read.
    pub fn incomplete(&self) -> Option<String> {
        [PLAN, ADAPTER].iter().find_map(|name| {
            let path = self.directory.join(name);
            let bytes = match fs::metadata(&path) {
                Ok(file) => file.len(),
                Err(error) => return Some(format!("{} cannot be read: {error}", path.display())),
            };
            match self.record.saved.get(*name) {
                Some(saved) if saved.bytes != bytes => Some(format!(
                    "{} has {} bytes, and {} were saved",
                    path.display(),
                    words::count(bytes),
                    words::count(saved.bytes)
                )),
                None if bytes == 0 => Some(format!("{} is empty", path.display())),
                _ => None,
            }
        })
    }

    /// That what was saved is there and is what it was.
    ///
    /// # Errors
    /// What is missing or broken, with advice.
    pub fn check(&self) -> Result<()> {
        const ADVICE: &str =
            "`host run` with the config of this run keeps what is left and trains the cell again";
        if let Some(sentence) = self.incomplete() {
            bail!("{sentence}; {ADVICE}");
        }
        for (name, saved) in &self.record.saved {
            let path = self.directory.join(name);
            if Saved::now(&path)? != *saved {
                bail!("{} is not what was saved; {ADVICE}", path.display());
            }
        }
        Ok(())
    }
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads a file of JSON.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what this version writes", path.display()))
}

/// Writes a file of JSON, as [`write_whole`] does.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("what should be written is no JSON")?;
    text.push('\n');
    write_whole(path, &text)
}

/// Writes a file so that a reader sees all of it or none, whatever happens: a
/// temporary file beside it, flushed to the disk, takes its name.
pub fn write_whole(path: &Path, text: &str) -> Result<()> {
    let Some(name) = path.file_name() else { bail!("{} is no file", path.display()) };
    let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

#[cfg(test)]
pub mod tests {
    use host_ir::method::Counts;

    use super::*;
    use crate::cell::{BestMetric, EpochRecord, Metrics, SplitMetrics};
    use crate::runs::identity::{self, tests::digests, tests::spec};

    /// A finished cell with that accuracy on its two splits.
    pub fn finished(label: &str, seed: u64, accuracy: f64) -> Finished {
        let spec = spec(label, seed);
        let metrics = |split: &str, accuracy| SplitMetrics {
            split: split.into(),
            metrics: Metrics(vec![
                ("loss".into(), 1.5),
                ("accuracy".into(), accuracy),
                ("f1_macro".into(), 0.25),
            ]),
        };
        let evaluations = vec![metrics("dev", accuracy / 2.0)];
        let epoch = EpochRecord {
            epoch: 1.0,
            step: 10,
            train_loss: Some(1.25),
            evaluations,
            best: true,
            training_seconds: 60.0,
        };
        let result = CellResult {
            counts: Counts { trained: 1000 + seed as usize, added: 900, total: 100_000, sites: 12 },
            steps: 10,
            tokens: 5000,
            training_seconds: 80.0 + seed as f64,
            metrics: vec![metrics("dev", accuracy / 2.0), metrics("test", accuracy)],
            best_metric: Some(BestMetric {
                split: "dev".into(),
                name: "accuracy".into(),
                higher_is_better: true,
            }),
            best_epoch: Some(1.0),
            epochs: vec![epoch],
            ..CellResult::default()
        };
        let step = |step, loss| StepRecord { step, loss, learning_rate: 1e-3, seconds: step as f64 };
        Finished {
            directory: PathBuf::from(format!("runs/x/cells/{label}-s{seed}")),
            record: CellRecord {
                identity: identity::identity(&spec, &digests()),
                digests: digests(),
                spec,
                result,
                peak_memory_bytes: 512 << 20,
                machine: Machine { host: "node1".into(), cores: 2, ..Machine::default() },
                finished: "2026-03-01T00:00:00Z".into(),
                host_version: "0.1.0".into(),
                saved: BTreeMap::new(),
            },
            steps: vec![step(1, 1.6), step(5, 1.3), step(10, 1.1)],
        }
    }

    /// The files that a cell cannot do without, so many bytes each.
    pub fn save(directory: &Path, bytes: usize) {
        for name in [PLAN, ADAPTER] {
            fs::write(directory.join(name), vec![b'x'; bytes]).unwrap();
        }
    }

    #[test]
    fn what_was_saved_is_held_against_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut cell = Finished { directory: folder.path().into(), ..finished("a", 1, 0.5) };
        assert!(cell.incomplete().unwrap().contains("plan.json cannot be read"));
        save(folder.path(), 10);
        assert_eq!(cell.incomplete(), None, "an older record says nothing of sizes");
        cell.record.saved = Saved::in_directory(folder.path()).unwrap();
        cell.check().unwrap();
        // The size is the same.
        fs::write(folder.path().join(ADAPTER), "yyyyyyyyyy").unwrap();
        assert_eq!(cell.incomplete(), None);
        let error = cell.check().unwrap_err().to_string();
        assert!(error.contains("adapter.safetensors is not what was saved; `host run`"), "{error}");
        fs::write(folder.path().join(ADAPTER), "y").unwrap();
        let sentence = cell.incomplete().unwrap();
        assert!(sentence.ends_with("adapter.safetensors has 1 bytes, and 10 were saved"), "{sentence}");
        fs::write(folder.path().join(ADAPTER), "").unwrap();
        cell.record.saved.clear();
        assert!(cell.incomplete().unwrap().ends_with("adapter.safetensors is empty"));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let cell = finished("a", 1, 0.5);
        assert!(Finished::read(folder.path()).is_err());
        write_json(&folder.path().join(RESULT), &cell.record).unwrap();
        let lines: Vec<String> = cell.steps.iter().map(|step| serde_json::to_string(step).unwrap()).collect();
        // The last line of a killed process may be torn.
        fs::write(folder.path().join(STEPS), lines.join("\n") + "\n{\"step\":").unwrap();
        let read = Finished::read(folder.path()).unwrap();
        assert_eq!((read.record, read.steps), (cell.record, cell.steps));
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 2, "no temporary file stays");
    }
}
