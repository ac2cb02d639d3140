//! Tasks and their data, through the whole program: every config, bad records,
//! splits without labels, the data as the model reads them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{cells, experiment, fails, host, root, succeeds};

/// All configs below a folder.
fn configs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(configs(&path));
        } else if path.extension().is_some_and(|ending| ending == "toml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every config in the tree goes through every step, on a small model of the right kind
/// and the sample that its task carries.
#[test]
fn every_config_can_be_tried() {
    let configs = configs(&root().join("configs"));
    assert!(configs.len() >= 5, "the configs are not where this test looks");
    let folder = tempfile::tempdir().unwrap();
    for config in &configs {
        let arguments = ["run", config.to_str().unwrap(), "--smoke", "--threads", "2"];
        let (table, log) = succeeds(host(folder.path(), &arguments));
        assert!(log.contains("-smoke"), "{log}");
        assert!(!table.trim().is_empty(), "{}", config.display());
    }
    for entry in fs::read_dir(folder.path().join("runs")).unwrap().flatten() {
        let cells = cells(&entry.path());
        assert!(!cells.is_empty());
        for (name, cell) in cells {
            let result = &cell["result"];
            assert!(result["steps"].as_u64().unwrap() >= 2, "{name} made no step");
            assert!(
                result["best_metric"].is_object() && result["best_epoch"].is_number(),
                "{name}: {result}"
            );
        }
    }
}

/// The lines of a file of the only cell of a run.
fn lines(run: &Path, file: &str) -> Vec<serde_json::Value> {
    let cell = fs::read_dir(run.join("cells")).unwrap().flatten().next().unwrap().path();
    let text = fs::read_to_string(cell.join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A smoke run of one method of a config; its run directory, and what it has said.
fn tried(folder: &Path, name: &str) -> (PathBuf, String) {
    let config = root().join(format!("configs/{name}.toml"));
    let arguments = ["run", config.to_str().unwrap(), "--smoke", "--method", "bitfit"];
    let (table, log) = succeeds(host(folder, &arguments));
    (folder.join(format!("runs/{name}-smoke")), table + &log)
}

#[test]
fn a_split_without_labels_is_for_prediction() {
    let folder = tempfile::tempdir().unwrap();
    let (run, log) = tried(folder.path(), "commonsenseqa");
    assert!(log.contains("test has no answer: there are predictions of it and no metrics"), "{log}");
    let predictions = lines(&run, "predictions-test.jsonl");
    assert_eq!(predictions.len(), 1);
    assert!(predictions[0]["answer"].as_u64().unwrap() < 5 && predictions[0].get("gold_answer").is_none());
    let splits = cells(&run)[0].1["result"]["metrics"].clone();
    assert!(splits[0]["split"] == "dev" && splits[0]["metrics"]["accuracy"].is_number(), "{splits}");
    assert!(splits[1]["split"] == "test" && splits[1]["metrics"].as_object().unwrap().is_empty(), "{splits}");
}

/// One prediction a question, however many windows its passage has, in the file
/// that the leaderboard wants.
#[test]
fn predictions_are_written_as_the_task_declares() {
    let folder = tempfile::tempdir().unwrap();
    let (run, log) = tried(folder.path(), "boolq-sl");
    // Three of six train as false, as the first of equal ones; one of three is false.
    let trivial = "always \"false\", the most frequent in training, on val: accuracy 0.333";
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(
        log.contains(trivial) && report.contains("most frequent in training, on val: accuracy 0.333"),
        "{log}"
    );
    let val = lines(&run, "val-BoolQ.jsonl");
    assert_eq!(val.iter().map(|line| line["idx"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(val.iter().all(|line| line["label"].is_boolean()));
    assert_eq!(lines(&run, "test-BoolQ.jsonl").len(), 1);
    let config = root().join("configs/boolq-sl.toml");
    let (text, _) =
        succeeds(host(folder.path(), &["data", config.to_str().unwrap(), "--smoke", "--examples", "1"]));
    let sequences = text.lines().find(|line| line.contains("sequences, ")).unwrap();
    assert!(!sequences.contains(" 1.00 an example"), "no passage of the sample is long: {text}");
}

#[test]
fn data_are_shown_as_the_model_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = root().join("configs/commonsenseqa.toml");
    let (text, _) =
        succeeds(host(folder.path(), &["data", config.to_str().unwrap(), "--smoke", "--examples", "1"]));
    for part in [
        "train: 6 examples from ",
        "  answer: A 2 (33.3%), B 1 (16.7%), C 1 (16.7%), D 1 (16.7%), E 1 (16.7%)",
        "  answer: without 1",
        "  30 sequences, 5.00 an example",
        "train_rand_split.jsonl:1, answer A",
        " [SEP] |1 ",
    ] {
        assert!(text.contains(part), "\"{part}\" is not in\n{text}");
    }
}

/// One of 40 lines is wrong.
fn wrong_line(keys: &str) -> tempfile::TempDir {
    let folder = experiment(|config| config.replace("path = \"data\"", &format!("path = \"data\"\n{keys}")));
    let path = folder.path().join("data/stsa.fine.train");
    let text = fs::read_to_string(&path).unwrap();
    let second = text.lines().nth(1).unwrap();
    fs::write(&path, text.replacen(second, "9 word5", 1)).unwrap();
    folder
}

#[test]
fn wrong_records_are_left_out_to_a_number() {
    let arguments = ["run", "experiment.toml", "--method", "lora"];
    let folder = wrong_line("");
    let error = fails(host(folder.path(), &arguments), 1);
    assert!(error.contains("stsa.fine.train:2: the label is 9, and 0 to 4 are wanted"), "{error}");
    let folder = wrong_line("max_bad_records = 1");
    let (_, log) = succeeds(host(folder.path(), &arguments));
    assert!(log.contains("left out of train: 1 wrong record, the first: "), "{log}");
    assert!(log.contains("stsa.fine.train:2: the label is 9"), "{log}");
    assert!(log.contains("39"), "{log}");
}

#[test]
fn what_trains_and_is_scored_is_counted() {
    let folder = experiment(|config| config);
    let dev = folder.path().join("data/stsa.fine.dev");
    fs::write(dev, "0 word5 word6\n1 word6 word7\n1 word6 word7\n2 never seen\n").unwrap();
    let (_, log) = succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    assert!(log.contains("3 of 4 examples of dev stand among those that train too"), "{log}");
}

#[test]
fn texts_without_a_word_are_counted() {
    let folder = experiment(|config| config.replace("[task]", "files = { train = \"train.jsonl\" }\n[task]"));
    let text = |n: usize| if n.is_multiple_of(4) { "  " } else { "word5 word6" };
    let line = |n: usize| format!("{}\n", serde_json::json!({ "text": text(n), "label": n % 5 }));
    fs::write(folder.path().join("data/train.jsonl"), (0..12).map(line).collect::<String>()).unwrap();
    let (_, log) = succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    let wanted = "3 of 12 examples of train have no text: the model reads nothing but special tokens";
    assert!(log.contains(wanted) && !log.contains("of dev have no text"), "{log}");
}

/// With the program's own model with a decoder: what it says means nothing, and every
/// step is made.
#[test]
fn texts_are_said_and_scored_in_a_smoke_run() {
    let folder = tempfile::tempdir().unwrap();
    let (run, log) = tried(folder.path(), "xsum");
    assert!(log.contains("1 of 2 examples of test have no summary"), "{log}");
    let said = lines(&run, "predictions-dev.jsonl");
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|line| line["summary"].is_string() && line["gold_summary"].is_string()));
    let metrics = cells(&run)[0].1["result"]["metrics"].clone();
    for split in metrics.as_array().unwrap() {
        let value = |name: &str| split["metrics"][name].as_f64().unwrap();
        for name in ["rouge1", "rouge2", "rougeL", "rougeLsum", "rougeL_stemmed"] {
            assert!((0.0..=1.0).contains(&value(name)), "{name}: {split}");
        }
        assert!(value("lead_rouge1") > 0.0 && value("gold_words") > 4.0, "{split}");
    }
    let config = root().join("configs/xsum.toml");
    let (text, _) =
        succeeds(host(folder.path(), &["data", config.to_str().unwrap(), "--smoke", "--examples", "1"]));
    for part in ["1 sequence cut to 512 tokens", "1 example without a target", "\n    -> <s> "] {
        assert!(text.contains(part), "\"{part}\" is not in\n{text}");
    }
}
