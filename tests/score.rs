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
    assert!(
        out.contains("95% intervals by bootstrap over the 15 examples scored, without the variance"),
        "{out}"
    );
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
    // What is taken for what: three examples of each class, in its row.
    assert!(table.contains("label, right \\ predicted"), "{table}");
    let rows = found["confidence"]["confusions"][0]["counts"].as_array().unwrap();
    let sum = |row: &serde_json::Value| -> u64 {
        row.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum()
    };
    assert_eq!(rows.iter().map(sum).collect::<Vec<_>>(), [3; 5]);
    let right: u64 = (0..5).map(|class| rows[class][class].as_u64().unwrap()).sum();
    assert!((right as f64 / 15.0 - accuracy).abs() < 1e-9);

    // Without the draws the table stands, and says what it lacks.
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        fs::remove_file(entry.path().join("resamples-dev.json")).unwrap();
    }
    let (out, _) = succeeds(host(path, &["compare", "runs/experiment"]));
    assert!(!out.contains("95% intervals") && out.contains("accuracy"), "{out}");
    assert!(
        out.contains("note: 4 of 4 cells without the draws of dev that intervals and tests need"),
        "{out}"
    );

    // A run that is named twice has no more seeds for it.
    let (out, _) = succeeds(host(path, &["compare", "runs/experiment", "runs/experiment"]));
    assert!(out.contains("over 2 seeds") && out.contains("note: left out: 4 cells"), "{out}");
}

/// The metrics of predictions, the number of what is drawn for their intervals, and what was
/// said of them.
fn scored_and_said(
    folder: &Path,
    task: &str,
    gold: &str,
    predictions: &[Option<u32>],
) -> (serde_json::Value, String) {
    let key = if task == "sst5" { "label" } else { "answer" };
    let line = |label: &Option<u32>| format!("{}\n", serde_json::json!({ key: label }));
    fs::write(folder.join("said.jsonl"), predictions.iter().map(line).collect::<String>()).unwrap();
    let arguments = ["score", task, "--json", "--gold", gold, "--pred", "said.jsonl"];
    let (out, log) = succeeds(host(folder, &arguments));
    let mut found: serde_json::Value = serde_json::from_str(&out).unwrap();
    found["metrics"]["drawn"] = found["confidence"]["groups"].take();
    (found["metrics"].take(), log)
}

/// Half of the answers, all of them right, are half right.
#[test]
fn examples_without_a_prediction_count_as_wrong() {
    let folder = experiment(|config| config);
    let path = folder.path();
    let half: Vec<_> = (0..15).map(|n| (n % 2 == 0).then_some(n % 5)).collect();
    let (found, log) = scored_and_said(path, "sst5", "data/stsa.fine.dev", &half);
    assert!(log.contains("7 of 15 examples have no prediction; they count as wrong"), "{log}");
    let near = |name: &str, wanted: f64| {
        let score = found[name].as_f64().unwrap();
        assert!((score - wanted).abs() < 1e-12, "{name}: {score}, {wanted}");
    };
    near("accuracy", 8.0 / 15.0);
    near("recall_macro", 8.0 / 15.0);
    near("precision_macro", 1.0);
    let (found, log) = scored_and_said(path, "sst5", "data/stsa.fine.dev", &[None; 15]);
    assert_eq!((found["accuracy"].as_f64(), found["f1_macro"].as_f64()), (Some(0.0), Some(0.0)));
    assert!(log.contains("15 of 15 examples have no prediction; they count as wrong"), "{log}");
    let all: Vec<_> = (0..15).map(|n| Some(n % 5)).collect();
    let (found, log) = scored_and_said(path, "sst5", "data/stsa.fine.dev", &all);
    assert!(found["accuracy"] == 1.0 && !log.contains("no prediction"), "{log}");

    let question = |answer: &str| {
        let choices =
            serde_json::json!({ "label": ["A", "B", "C", "D", "E"], "text": ["a", "b", "c", "d", "e"] });
        format!("{}\n", serde_json::json!({ "question": "Which?", "choices": choices, "answerKey": answer }))
    };
    // The last question has no answer that could be missed.
    fs::write(path.join("questions.jsonl"), ["B", "C", "A", ""].map(question).concat()).unwrap();
    let said = [Some(1), None, None, None];
    let (found, log) = scored_and_said(path, "commonsenseqa", "questions.jsonl", &said);
    assert!((found["accuracy"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{found}");
    assert_eq!(found["drawn"], 3, "of four");
    assert!(log.contains("2 of 3 examples have no prediction; they count as wrong"), "{log}");
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
    fs::write(path.join("empty"), "").unwrap();
    let empty = fails(host(path, &["score", "sst5", "--gold", "empty", "--pred", "predictions"]), 1);
    assert!(empty.contains("empty: there is no example in it"), "{empty}");
    let pipe =
        fails(host(path, &["score", "sst5", "--gold", "data/stsa.fine.dev", "--pred", "/dev/null"]), 1);
    assert!(pipe.contains("/dev/null is no file, and what is scored is read twice"), "{pipe}");
    let unknown = fails(host(path, &["score", "sst6", "--gold", "a", "--pred", "b"]), 2);
    assert!(unknown.contains("there is no task plugin `sst6`"), "{unknown}");
}

/// The metrics of a file of summaries.
fn summaries(folder: &Path, gold: &str, predictions: &str) -> serde_json::Value {
    let arguments = ["score", "xsum", "--json", "--gold", gold, "--pred", predictions];
    let found: serde_json::Value = serde_json::from_str(&succeeds(host(folder, &arguments)).0).unwrap();
    found["metrics"].clone()
}

#[test]
fn summaries_of_any_system_are_scored_as_text_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let gold = "{\"document\": \"The cat sat. It slept.\", \"summary\": \"A cat sat on a mat.\"}\n\
                {\"document\": \"Rain fell.\", \"summary\": \"It rained in Kranj.\"}\n";
    fs::write(path.join("gold.jsonl"), gold).unwrap();
    let said = ["A cat sat on a mat.", "It \"rained\" in Kranj, hard."];
    fs::write(path.join("said.txt"), said.join("\n")).unwrap();
    let json: Vec<String> =
        said.iter().map(|text| serde_json::json!({ "summary": text }).to_string()).collect();
    fs::write(path.join("said.jsonl"), json.join("\n")).unwrap();
    let found = summaries(path, "gold.jsonl", "said.txt");
    // Four of five words, and all of four: an F1 of 8/9.
    assert!((found["rouge1"].as_f64().unwrap() - 17.0 / 18.0).abs() < 1e-9, "{found}");
    assert_eq!(summaries(path, "gold.jsonl", "said.jsonl"), found);
    // One text for all of them has learned nothing.
    fs::write(path.join("same.txt"), [said[0]; 2].join("\n")).unwrap();
    let score = |predictions: &str| {
        succeeds(host(path, &["score", "xsum", "--gold", "gold.jsonl", "--pred", predictions])).1
    };
    let text = "every prediction is \"A cat sat on a mat.\": nothing has been learned";
    assert!(score("same.txt").contains(text) && !score("said.txt").contains("nothing has been learned"));
    fs::write(path.join("less.txt"), said[0]).unwrap();
    let error = fails(host(path, &["score", "xsum", "--gold", "gold.jsonl", "--pred", "less.txt"]), 1);
    assert!(error.contains("there are 1 predictions, and the gold file has 2 examples"), "{error}");
}

/// The means of what rouge-score gives, where its pairs are there.
#[test]
fn summaries_score_what_rouge_score_gives() {
    let Some(data) = std::env::var_os("HOST_TEST_DATA") else {
        println!("skipped: HOST_TEST_DATA is not set");
        return;
    };
    let text = fs::read_to_string(Path::new(&data).join("rouge/lead_pairs.jsonl")).unwrap();
    let pairs: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, line: fn(&serde_json::Value) -> serde_json::Value| {
        let lines: Vec<String> = pairs.iter().map(|pair| line(pair).to_string()).collect();
        fs::write(folder.path().join(file), lines.join("\n")).unwrap();
    };
    write("gold.jsonl", |pair| serde_json::json!({ "document": "Any.", "summary": pair["target"] }));
    write("said.jsonl", |pair| serde_json::json!({ "summary": pair["prediction"] }));
    let found = summaries(folder.path(), "gold.jsonl", "said.jsonl");
    for (stems, ending) in [("nostem", ""), ("stem", "_stemmed")] {
        for name in ["rouge1", "rouge2", "rougeL", "rougeLsum"] {
            let sum: f64 = pairs.iter().map(|pair| pair[stems][name][2].as_f64().unwrap()).sum();
            let (score, wanted) = (&found[format!("{name}{ending}")], sum / pairs.len() as f64);
            assert!((score.as_f64().unwrap() - wanted).abs() <= 1e-6, "{name}{ending}: {score}, {wanted}");
        }
    }
    assert!(!pairs.is_empty());
}
