//! What the machine has: memory that is left, memory that was used, instruction
//! sets. Linux's own files are read; elsewhere less is known.

use std::fs;

/// Instruction sets beyond the baseline that kernels use where they are.
#[cfg(target_arch = "x86_64")]
pub fn instruction_sets() -> Vec<String> {
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    known.iter().filter(|(_, there)| *there).map(|(name, _)| name.to_string()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
pub fn instruction_sets() -> Vec<String> {
    match cfg!(target_arch = "aarch64") {
        true => vec!["neon".into()],
        false => Vec::new(),
    }
}

/// A line of a file of /proc, `NAME: 1024 kB`, in bytes.
fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Bytes of memory that the machine has; `None` where that is not known.
pub fn total_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemTotal")
}

/// Bytes that this process can still take: the least of what the system has,
/// what its control group leaves, what its own limit leaves, and what a batch
/// job was given. `None` where nothing is known.
pub fn available_memory() -> Option<u64> {
    [kibibytes("/proc/meminfo", "MemAvailable"), group_left(), limit_left(), job_left()]
        .into_iter()
        .flatten()
        .min()
}

/// What Slurm gave the job, in mebibytes, which not every cluster enforces by a
/// control group.
fn job_left() -> Option<u64> {
    let given: u64 = std::env::var("SLURM_MEM_PER_NODE").ok()?.parse().ok()?;
    Some((given << 20).saturating_sub(peak_memory()))
}

/// Gives memory that was freed back to the system, where the allocator keeps it: what
/// reading a vocabulary and planning took is not needed in training.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: frees what nobody holds, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
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

/// The most bytes that this process had in memory at one time: the kernel's
/// high-water mark of its own pages. `getrusage` serves where there is no /proc,
/// but counts what the parent held before `exec`.
pub fn peak_memory() -> u64 {
    kibibytes("/proc/self/status", "VmHWM").unwrap_or_else(resource_usage)
}

fn resource_usage() -> u64 {
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
    fn memory_that_is_touched_counts() {
        let before = peak_memory();
        let block = vec![1u8; 64 << 20];
        let touched: u64 = block.iter().step_by(4096).map(|&byte| u64::from(byte)).sum();
        assert_eq!(touched, 16384);
        assert!(peak_memory() >= before.max(64 << 20));
        assert!(resource_usage() >= 64 << 20);
        assert!(available_memory().is_none_or(|bytes| bytes > 1 << 20));
        assert!(total_memory().is_none_or(|bytes| bytes > 1 << 30));
    }
}
