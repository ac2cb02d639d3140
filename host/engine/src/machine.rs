//! What the machine has: memory that is left, memory that was used, the
//! processor. Linux's own files are read; elsewhere less is known.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine of a run, as records name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    /// Instruction sets beyond the baseline that kernels use where they are.
    pub instruction_sets: Vec<String>,
    pub cores: usize,
    pub memory_bytes: u64,
    pub system: String,
}

/// What can be found out about this machine.
pub fn describe() -> Machine {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        information.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))
    };
    Machine {
        processor: field("model name").map_or("unknown".into(), |(_, value)| value.trim().to_string()),
        instruction_sets: instruction_sets(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_line("MemTotal").unwrap_or(0),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<String> {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    known.iter().filter(|(_, there)| *there).map(|(name, _)| name.to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<String> {
    Vec::new()
}

/// A line of /proc/meminfo in bytes.
fn memory_line(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes that this process can still take: the least of what the system has,
/// what its control group leaves, what its own limit leaves, and what a batch
/// job was given. `None` where nothing is known.
pub fn available_memory() -> Option<u64> {
    [memory_line("MemAvailable"), group_left(), limit_left(), job_left()].into_iter().flatten().min()
}

/// What Slurm gave the job, in mebibytes, which not every cluster enforces by a
/// control group.
fn job_left() -> Option<u64> {
    let given: u64 = std::env::var("SLURM_MEM_PER_NODE").ok()?.parse().ok()?;
    Some((given << 20).saturating_sub(peak_memory()))
}

fn group_left() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max")?;
    Some(limit.saturating_sub(number("/sys/fs/cgroup/memory.current")?))
}

fn limit_left() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the structure that it is given.
    let known =
        unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().next()?.parse().ok()?;
    known.then(|| limit.rlim_cur.saturating_sub(pages * 4096))
}

/// The most bytes that this process had in memory at one time.
pub fn peak_memory() -> u64 {
    // SAFETY: the structure is plain numbers, for which zero is a value, and
    // the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    // Linux counts kibibytes, macOS bytes.
    usage.ru_maxrss as u64 * if cfg!(target_os = "macos") { 1 } else { 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_bytes() {
        assert!(peak_memory() > 1 << 20);
        assert!(available_memory().is_none_or(|bytes| bytes > 1 << 20));
    }
}
