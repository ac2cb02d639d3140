//! Scores without a model, intervals, and tests between methods.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{cells, experiment, fails, host, succeeds};

/// The folder of the only cell of a method.
fn cell(run: &Path, method: &str) -> PathBuf {
    let folders = fs::read_dir(run.join("cells")).unwrap().flatten().map(|entry| entry.path());
    let named =
        |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{method}-"));
    folders.into_iter().find(named).unwrap()
}

/// The metrics that `host score` prints as JSON.
fn scored(folder: &Path, predictions: &Path) -> serde_json::Value {
    let arguments = ["score", "sst5", "--json", "--gold", "data/stsa.fine.dev", "--pred"];
    let mut command = host(folder, &arguments);
    command.arg(predictions);
    serde_json::from_str(&succeeds(command).0).unwrap()
}

#[test]
fn predictions_score_what_the_run_has_recorded_in_every_form() {
    let folder = experiment(|config| config);
    let path = folder.path();
    let (out, _) = succeeds(host(path, &["run", "experiment.toml", "--seed", "1", "--seed", "2"]));
    let run = path.join("runs/experiment");
    // The table, and beside it how sure it is.
    assert!(out.contains("95% intervals by bootstrap over the 15 examples evaluated"), "{out}");
    assert!(out.contains("difference in accuracy to"), "{out}");
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("Confidence") && report.contains("paired bootstrap"));
    let markdown = fs::read_to_string(run.join("comparison.md")).unwrap();
    assert!(markdown.contains("difference to"), "{markdown}");

    let folder = run.join("cells");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    let cell = cell(&run, "fft");
    let records = cells(&run);
    let name = cell.file_name().unwrap().to_string_lossy().into_owned();
    let record = &records.iter().find(|(known, _)| *known == name).unwrap().1;
    let recorded = &record["result"]["metrics"][0]["metrics"];
    let predictions = cell.join("predictions-dev.jsonl");
    let found = scored(path, &predictions);
    assert_eq!(found["metrics"], *recorded);
    assert_eq!(found["examples"], 15);
    assert_eq!(found["confidence"], record["result"]["confidence"][0]);
    let interval = &found["confidence"]["intervals"][0];
    let accuracy = recorded["accuracy"].as_f64().unwrap();
    assert!(interval["low"].as_f64().unwrap() <= accuracy && accuracy <= interval["high"].as_f64().unwrap());

    // As plain numbers, and as names in JSON.
    let lines = fs::read_to_string(&predictions).unwrap();
    let labels: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["label"].as_u64().unwrap())
        .collect();
    let plain: String = labels.iter().map(|label| format!("{label}\n")).collect();
    fs::write(path.join("plain.txt"), plain).unwrap();
    assert_eq!(scored(path, Path::new("plain.txt"))["metrics"], *recorded);
    let names = ["very negative", "negative", "neutral", "positive", "very positive"];
    let named = |label: &u64| format!("{{\"label\": \"{}\"}}\n", names[*label as usize]);
    fs::write(path.join("named.jsonl"), labels.iter().map(named).collect::<String>()).unwrap();
    assert_eq!(scored(path, Path::new("named.jsonl"))["metrics"], *recorded);
    let (table, _) =
        succeeds(host(path, &["score", "sst5", "--gold", "data/stsa.fine.dev", "--pred", "plain.txt"]));
    assert!(table.contains("f1_macro") && table.contains("95% interval"), "{table}");

    // Older cells have no draws; the table stands without them.
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        fs::remove_file(entry.path().join("resamples-dev.json")).unwrap();
    }
    let (out, _) = succeeds(host(path, &["compare", "runs/experiment"]));
    assert!(!out.contains("95% intervals") && out.contains("accuracy"), "{out}");
}

#[test]
fn one_class_for_everything_is_pointed_out() {
    let folder =
        experiment(|config| config.replace("1e-3", "0.0").replace("num_train_epochs = 2", "max_steps = 1"));
    let path = folder.path();
    // Every sentence is the same, so whatever is predicted is one class.
    let lines: String = (0..15).map(|n| format!("{} word7 word8\n", n % 5)).collect();
    fs::write(path.join("data/stsa.fine.dev"), lines).unwrap();
    let (out, log) = succeeds(host(path, &["run", "experiment.toml", "--method", "lora"]));
    assert!(out.contains("for every example: it has learned nothing"), "{out}");
    assert!(log.contains("nothing has been learned, whatever the scores are"), "{log}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let folder = experiment(|config| config);
    let path = folder.path();
    let score = |predictions: &str| {
        fs::write(path.join("predictions"), predictions).unwrap();
        fails(host(path, &["score", "sst5", "--gold", "data/stsa.fine.dev", "--pred", "predictions"]), 1)
    };
    assert!(score("1\n2\n").contains("there are 2 predictions, and the gold file has 15 examples"));
    let fifteen = |line: &str| format!("{line}\n").repeat(15);
    assert!(score(&fifteen("9")).contains("predictions:1: the label is \"9\", and 0 to 4 or one of"));
    let other = r#"{"origin": "data/stsa.fine.dev:2", "label": 1}"#;
    assert!(
        score(&fifteen(other)).contains("predictions:1: this is the prediction for data/stsa.fine.dev:2")
    );
    assert!(score(&fifteen(r#"{"lable": 1}"#)).contains("there is no \"label\"; did you mean"));
    let gold = r#"{"gold_label": 4, "label": 1}"#;
    assert!(score(&fifteen(gold)).contains("it was made for the label 4"));
    let unknown = fails(host(path, &["score", "sst6", "--gold", "a", "--pred", "b"]), 2);
    assert!(unknown.contains("there is no task plugin `sst6`"), "{unknown}");
}
