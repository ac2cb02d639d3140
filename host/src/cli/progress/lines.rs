//! Files of a cell to which a line is added from time to time.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::runs::record::write_whole;

/// A file of lines that grows.
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens a file, or makes it.
    pub fn open(path: PathBuf) -> Result<Lines> {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Lines { path, file })
    }

    /// Adds a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds a record as a line of JSON.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let line = serde_json::to_string(value).context("a record is no JSON")?;
        self.line(&line)
    }

    /// Keeps the records of so many steps, and no line of those that came after them.
    pub fn keep(&mut self, steps: u64) -> Result<()> {
        let text =
            fs::read_to_string(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        let early = |line: &&str| {
            let record: Option<Value> = serde_json::from_str(line).ok();
            record.and_then(|record| record["step"].as_u64()).is_some_and(|step| step <= steps)
        };
        let kept: String = text.lines().filter(early).map(|line| format!("{line}\n")).collect();
        if kept != text {
            write_whole(&self.path, &kept)?;
            *self = Lines::open(std::mem::take(&mut self.path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a killed process has written after its last checkpoint goes, and lines are added
    /// behind what stays.
    #[test]
    fn records_after_a_step_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        let line = |step: u64| format!("{{\"step\":{step}}}\n");
        fs::write(&path, [line(3), line(7), line(9), "{\"st".into()].concat()).unwrap();
        let mut lines = Lines::open(path.clone()).unwrap();
        lines.keep(7).unwrap();
        lines.line(line(8).trim()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), [line(3), line(7), line(8)].concat());
        lines.keep(0).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
