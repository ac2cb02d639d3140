//! The machine that a cell was trained on, for its record.

use std::fs;

use host_engine::machine;
use serde::{Deserialize, Serialize};

use super::words;

/// Where a cell was trained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub host: String,
    pub system: String,
    pub processor: String,
    /// Instruction sets beyond the baseline that kernels use.
    #[serde(default)]
    pub instruction_sets: Vec<String>,
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
            instruction_sets: machine::instruction_sets(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: machine::total_memory().unwrap_or(0),
            slurm_job: std::env::var("SLURM_JOB_ID").ok(),
        }
    }

    /// One line that describes it.
    pub fn words(&self) -> String {
        let mut parts = vec![self.host.clone(), self.system.clone(), self.processor.clone()];
        parts.push(self.instruction_sets.join(" "));
        parts.push(words::plural(self.cores as u64, "core"));
        parts.push(words::bytes(self.memory_bytes as f64));
        parts.extend(self.slurm_job.as_ref().map(|job| format!("Slurm job {job}")));
        parts.retain(|part| !part.trim().is_empty());
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_cores() {
        let machine = Machine::this();
        assert!(machine.cores >= 1);
        assert!(machine.words().contains("core"));
    }
}
