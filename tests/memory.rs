//! Memory does not grow with the data: what trains, what is evaluated and what is scored
//! lies in temporary files.

mod support;

use std::fmt::Write;
use std::fs;

use support::{host, root, succeeds};

/// The most that the larger data set may take more: what is kept in memory before
/// anything goes to a file, and four bytes an example for their order. Its
/// examples alone would take five times as much.
const MORE: u64 = 20 << 20;

/// Lines of SST-5 of which not many are alike.
fn lines(count: usize) -> String {
    let mut text = String::new();
    for line in 0..count {
        let words = ["a good film", "the plot is bad", "not so good , and long", "fine"][line % 4];
        writeln!(text, "{} {words} {}", line % 5, line % 97).unwrap();
    }
    text
}

#[test]
fn a_hundred_times_as_many_examples_take_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    let peak = |count: usize| -> u64 {
        let data = folder.path().join(format!("data{count}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("stsa.fine.train"), lines(count)).unwrap();
        fs::write(data.join("stsa.fine.dev"), lines(count / 10)).unwrap();
        let out = folder.path().join(format!("run{count}"));
        let config = root().join("configs/quickstart.toml");
        let arguments = [
            "run",
            config.to_str().unwrap(),
            "--method",
            "bitfit",
            "--set",
            &format!("data.path={}", data.display()),
            "--set",
            "training.max_steps=2",
            "--out",
            out.to_str().unwrap(),
        ];
        succeeds(host(folder.path(), &arguments));
        let cell = fs::read_dir(out.join("cells")).unwrap().next().unwrap().unwrap().path();
        let record = fs::read(cell.join("result.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["peak_memory_bytes"].as_u64().unwrap()
    };
    let (few, many) = (peak(4_000), peak(400_000));
    eprintln!("{few} bytes for few examples, {many} for many");
    assert!(many < few + MORE, "{few} bytes for few examples, {many} for many");
}

/// The most memory in bytes that `host score` takes for so many lines.
#[cfg(target_os = "linux")]
#[allow(clippy::zombie_processes)] // The system's own call waits, and says what was taken.
fn scoring(folder: &std::path::Path, count: usize) -> u64 {
    fs::write(folder.join("gold"), lines(count)).unwrap();
    let predictions: String = (0..count).map(|line| format!("{}\n", line % 3)).collect();
    fs::write(folder.join("predictions"), predictions).unwrap();
    let mut command = host(folder, &["score", "sst5", "--gold", "gold", "--pred", "predictions"]);
    let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut status = 0;
    // SAFETY: the structure is of numbers, both places are ours, and nobody else waits for
    // the child.
    let (ended, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(child.id() as i32, &mut status, 0, &mut usage), usage)
    };
    assert_eq!((ended, status), (child.id() as i32, 0));
    // Linux counts kilobytes.
    usage.ru_maxrss as u64 * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn fifty_times_as_many_predictions_are_scored_in_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    // The first run of all compiles the plugins, for which it takes more.
    scoring(folder.path(), 10);
    let (few, many) = (scoring(folder.path(), 4_000), scoring(folder.path(), 200_000));
    eprintln!("{few} bytes for few predictions, {many} for many");
    assert!(many < few + MORE, "{few} bytes for few predictions, {many} for many");
}
