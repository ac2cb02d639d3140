//! Memory does not grow with the data: what trains lies in a temporary file.

mod support;

use std::fmt::Write;
use std::fs;

use support::{host, root, succeeds};

/// The most that the larger data set may take more: what is kept in memory before
/// anything goes to a file, and four bytes an example for their order. Its
/// examples alone would take five times as much.
const MORE: u64 = 20 << 20;

#[test]
fn a_hundred_times_as_many_examples_train_in_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    let peak = |lines: usize| -> u64 {
        let data = folder.path().join(format!("data{lines}"));
        fs::create_dir(&data).unwrap();
        for (split, lines) in [("train", lines), ("dev", 50)] {
            let mut text = String::new();
            for line in 0..lines {
                let words = ["a good film", "the plot is bad", "not so good , and long", "fine"][line % 4];
                writeln!(text, "{} {words} {}", line % 5, line % 97).unwrap();
            }
            fs::write(data.join(format!("stsa.fine.{split}")), text).unwrap();
        }
        let out = folder.path().join(format!("run{lines}"));
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
