//! A run that is told to end, or killed, goes on where it was, and comes to what it would
//! have come to.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;
use support::{cells, experiment, host, succeeds};

/// Long enough that a signal arrives before the end.
const EPOCHS: &str = "num_train_epochs = 150";
const RUN: [&str; 4] = ["run", "experiment.toml", "--method", "fft"];

/// A folder in which the best epoch is none of the last ones, and dropout is on.
fn long() -> tempfile::TempDir {
    let keys =
        format!("{EPOCHS}\ndropout = 0.2\nwarmup_ratio = 0.1\nmax_grad_norm = 0.5\nweight_decay = 0.1");
    experiment(|config| {
        config
            .replace("num_train_epochs = 2", &keys)
            .replace("batch_size = 8", "batch_size = 4")
            .replace("learning_rate", "gradient_accumulation_steps = 2\nlearning_rate")
    })
}

/// Who gets a signal.
#[derive(Clone, Copy)]
enum To {
    /// The process that was started, as `kill` does.
    Parent,
    /// The processes that it has started too, as a terminal and Slurm do.
    Group,
}

/// Runs until so many epochs are told of, sends a signal, and answers how the run ended
/// with all of its lines.
fn interrupted(
    folder: &Path,
    arguments: &[&str],
    epochs: usize,
    signal: &str,
    to: To,
) -> (ExitStatus, String) {
    interrupted_by(host(folder, arguments), epochs, signal, to)
}

/// The same of a command.
fn interrupted_by(mut command: Command, epochs: usize, signal: &str, to: To) -> (ExitStatus, String) {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let (mut log, mut told) = (String::new(), 0);
    while told < epochs {
        let line = lines.next().expect(&log);
        told += usize::from(line.starts_with("  epoch "));
        log += &format!("{line}\n");
    }
    let whom = match to {
        To::Parent => child.id().to_string(),
        To::Group => format!("-{}", child.id()),
    };
    let mut kill = Command::new("kill");
    kill.args([signal, "--", &whom]);
    succeeds(kill);
    lines.for_each(|line| log += &format!("{line}\n"));
    (child.wait().unwrap(), log)
}

fn cell(folder: &Path) -> PathBuf {
    let mut found = fs::read_dir(folder.join("runs/experiment/cells")).unwrap().flatten();
    let cell = found.next().unwrap().path();
    assert!(found.next().is_none(), "there is one cell");
    cell
}

/// Names of the files of a cell, the log aside.
fn names(cell: &Path) -> Vec<String> {
    let entries = fs::read_dir(cell).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Takes times away from records, and what says that there were several parts.
fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !key.ends_with("seconds") && key != "earlier");
            fields.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// All that a finished cell has come to: its result, the lines of its records, the bytes of
/// its adapter and of its predictions.
fn outcome(folder: &Path) -> (Vec<Value>, Vec<Vec<u8>>) {
    let cell = cell(folder);
    let read = |name: &str| fs::read(cell.join(name)).unwrap();
    let mut records = vec![cells(&folder.join("runs/experiment"))[0].1["result"].clone()];
    let lines = String::from_utf8(read("epochs.jsonl")).unwrap();
    records.extend(lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    records.iter_mut().for_each(without_times);
    let files = ["adapter.safetensors", "plan.json", "resamples-dev.json"];
    let mut files = files.map(read).to_vec();
    // Each prediction says in which file its example stands.
    let predictions = String::from_utf8(read("predictions-dev.jsonl")).unwrap();
    files.push(predictions.replace(folder.to_str().unwrap(), "").into_bytes());
    (records, files)
}

/// What a run that is not interrupted comes to.
fn straight(device: &str) -> (Vec<Value>, Vec<Vec<u8>>) {
    let folder = long();
    let (_, log) = succeeds(host(folder.path(), &[&RUN[..], &["--device", device]].concat()));
    assert!(!log.contains("goes on") && !log.contains("saved"), "{log}");
    let names = names(&cell(folder.path()));
    assert!(!names.iter().any(|name| name.contains("checkpoint")), "{names:?}");
    let outcome = outcome(folder.path());
    let best = outcome.0[0]["best_epoch"].as_f64().unwrap();
    assert!(best < 149.0, "the best epoch is the last one, which tells too little: {best}");
    outcome
}

/// The step of the line in which a run says where it goes on.
fn goes_on_after(log: &str) -> u64 {
    let line = log.lines().find(|line| line.contains("goes on after step ")).expect(log);
    assert!(line.contains(" of 750, from ") && line.ends_with("checkpoint.safetensors"), "{line}");
    line.split_whitespace().nth(4).unwrap().parse().unwrap()
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    for device in ["cpu", "candle-cpu"] {
        let wanted = straight(device);
        let folder = long();
        let run = [&RUN[..], &["--device", device]].concat();
        let path = folder.path();
        // Told to end by a plain `kill` of the process that was started.
        let (status, log) = interrupted(path, &run, 2, "-TERM", To::Parent);
        assert_eq!(status.code(), Some(75), "{log}");
        let line = log.lines().rfind(|line| line.contains("saved after step ")).expect(&log);
        let saved: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!((10..750).contains(&saved), "{line}");
        assert_eq!(log.lines().last(), Some("interrupted: the same command goes on; 0 cells are finished"));
        // By Slurm, which tells all processes.
        let (status, log) = interrupted(path, &run, 2, "-USR1", To::Group);
        assert_eq!((status.code(), goes_on_after(&log)), (Some(75), saved), "{log}");
        // Killed, so that what it has is the checkpoint of an epoch.
        let (status, log) = interrupted(path, &run, 3, "-KILL", To::Parent);
        assert_eq!(status.signal(), Some(9), "{log}");
        let killed_after = goes_on_after(&log);
        assert!(killed_after > saved);
        // By Ctrl-C.
        let (status, log) = interrupted(path, &run, 3, "-INT", To::Group);
        assert_eq!(status.signal(), Some(2), "{log}");
        let after_kill = goes_on_after(&log);
        assert!(after_kill >= killed_after + 5 && after_kill.is_multiple_of(5), "{after_kill}");
        let (_, log) = succeeds(host(path, &run));
        let last = goes_on_after(&log);
        assert!(log.contains(" in 5 parts, peak memory"), "{log}");
        assert!(outcome(path) == wanted, "{device}: another outcome\n{log}");
        let record = &cells(&path.join("runs/experiment"))[0].1["result"]["earlier"];
        assert_eq!(record["steps"], serde_json::json!([saved, killed_after, after_kill, last]));
        assert!(!names(&cell(path)).iter().any(|name| name.contains("checkpoint")));
        // The curve has every part of the training once.
        let steps = fs::read_to_string(cell(path).join("steps.jsonl")).unwrap();
        let steps: Vec<Value> = steps.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(steps.is_sorted_by(|a, b| a["step"].as_u64() < b["step"].as_u64()), "{steps:?}");
        assert_eq!(steps.last().unwrap()["step"], 750);
    }
}

/// A checkpoint that is not what was written is said to be so, and nothing of it is used.
#[test]
fn a_damaged_checkpoint_is_not_used() {
    let wanted = straight("cpu");
    let run = [&RUN[..], &["--device", "cpu"]].concat();
    let folder = long();
    let path = folder.path();
    for damage in [
        |bytes: &mut Vec<u8>| bytes.truncate(1000),
        |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
    ] {
        interrupted(path, &run, 2, "-TERM", To::Parent);
        let checkpoint = cell(path).join("checkpoint.safetensors");
        let mut bytes = fs::read(&checkpoint).unwrap();
        damage(&mut bytes);
        fs::write(&checkpoint, bytes).unwrap();
    }
    let (_, log) = succeeds(host(path, &run));
    let sentence = "checkpoint.safetensors: the checkpoint is cut or damaged; it is not used, and the cell is trained anew";
    assert!(log.contains(sentence) && !log.contains("goes on"), "{log}");
    assert!(outcome(path) == wanted, "{log}");
}

/// Micro-batches that were small for want of memory stay so where there is more, and get
/// smaller where there is less.
#[test]
fn micro_batches_stay_as_they_were() {
    let little = |command: &mut Command| _ = command.env("SLURM_MEM_PER_NODE", "1");
    let wanted = long();
    let mut command = host(wanted.path(), &RUN);
    little(&mut command);
    succeeds(command);
    let folder = long();
    let mut command = host(folder.path(), &RUN);
    little(&mut command);
    interrupted_by(command, 2, "-TERM", To::Parent);
    let (_, log) = succeeds(host(folder.path(), &RUN));
    goes_on_after(&log);
    assert!(outcome(folder.path()) == outcome(wanted.path()), "{log}");
    let folder = long();
    interrupted(folder.path(), &RUN, 2, "-TERM", To::Parent);
    let mut command = host(folder.path(), &RUN);
    little(&mut command);
    let (_, log) = succeeds(command);
    goes_on_after(&log);
    assert!(log.contains("does not suffice any more for micro-batches of 4 examples; 1 are taken"), "{log}");
}

/// When all is trained, what is left is to evaluate the best checkpoint on the test split.
#[test]
fn an_interrupted_last_evaluation_trains_nothing_again() {
    let tested = || {
        let folder = long();
        let lines: String = (0..20_000).map(|n| format!("{} word{}\n", n % 5, 5 + n % 80)).collect();
        fs::write(folder.path().join("data/stsa.fine.test"), lines).unwrap();
        folder
    };
    let run =
        [&RUN[..], &["--set", "training.save_strategy=no", "--set", "training.num_train_epochs=3"]].concat();
    let (wanted, folder) = (tested(), tested());
    succeeds(host(wanted.path(), &run));
    let (status, log) = interrupted(folder.path(), &run, 3, "-TERM", To::Group);
    assert!(status.code() == Some(75) && log.contains("saved after step 15 of 15, in "), "{log}");
    let (_, log) = succeeds(host(folder.path(), &run));
    assert!(log.contains("goes on after step 15 of 15, from ") && !log.contains("epoch"), "{log}");
    assert!(outcome(folder.path()) == outcome(wanted.path()), "{log}");
}

/// Who does not want to wait for a step to end, and for the checkpoint, need not.
#[test]
#[cfg(target_os = "linux")]
fn a_second_interrupt_ends_at_once() {
    let folder = long();
    let mut command = host(folder.path(), &RUN);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("epoch 2:")));
    let id = child.id().to_string();
    let cell = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap().trim().to_string();
    // The process that trains makes no step any more.
    for (signal, whom) in [("-STOP", &cell), ("-INT", &id), ("-INT", &id)] {
        let mut kill = Command::new("kill");
        kill.args([signal, whom]);
        succeeds(kill);
    }
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    // It ends with the one that waited for it, which is when nobody writes lines any more.
    lines.for_each(drop);
    assert!(!Path::new("/proc").join(&cell).join("exe").exists());
    let (_, log) = succeeds(host(folder.path(), &RUN));
    assert!(goes_on_after(&log).is_multiple_of(5), "{log}");
}

/// Another config is another cell; when checkpoints are written makes none.
#[test]
fn a_checkpoint_is_that_of_its_cell() {
    let folder = long();
    let path = folder.path();
    let every_step = [&RUN[..], &["--set", "training.save_strategy=steps", "--set", "training.save_steps=1"]];
    let (_, log) = interrupted(path, &every_step.concat(), 2, "-KILL", To::Parent);
    assert!(!log.contains("saved"), "{log}");
    let other = [&RUN[..], &["--set", "training.learning_rate=2e-3", "--set", "training.max_steps=3"]];
    let (_, log) = succeeds(host(path, &other.concat()));
    assert!(!log.contains("goes on"), "{log}");
    let never = [&RUN[..], &["--set", "training.save_strategy=no"]].concat();
    let (_, log) = interrupted(path, &never, 3, "-KILL", To::Parent);
    let first = goes_on_after(&log);
    // Nothing was saved meanwhile.
    let (_, log) = interrupted(path, &never, 3, "-TERM", To::Parent);
    assert!(goes_on_after(&log) == first && log.contains("saved after step "), "{log}");
}
