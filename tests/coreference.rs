//! Whole documents, end to end: read, trained, written for the official scorer,
//! and scored as it scores.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use support::{cells, experiment, fails, host, succeeds};

/// A document of so many sentences in which two names come back.
fn document(name: &str, sentences: usize) -> String {
    let mut text = format!("#begin document ({name}); part 000\n");
    for sentence in 0..sentences {
        for (word, coreference) in [(7, "(0)"), (20 + sentence % 9, "-"), (11, "(1"), (12, "1)"), (5, "-")] {
            writeln!(text, "{name}\t0\t{sentence}\tword{word}\t-\t-\t-\t-\t-\tAnn\t-\t{coreference}")
                .unwrap();
        }
        text.push('\n');
    }
    text + "#end document\n"
}

/// The golden checkpoint with documents longer than its 40 positions.
fn documents() -> tempfile::TempDir {
    let folder = experiment(|config| {
        let head = "max_span_width = 2\nspans_per_thousand_words = 1000\nhead_size = 16\nhead_dropout = 0.0";
        let task = format!("name = \"conll2012\"\nmax_tokens = 24\nshared_words = 4\n{head}");
        config
            .replace("name = \"sst5\"", &task)
            .replace("learning_rate = 1e-3", "learning_rate = 1e-3\nhead_learning_rate = 1e-2")
            .replace("num_train_epochs = 2", "num_train_epochs = 12")
            .replace("per_device_train_batch_size = 8", "per_device_train_batch_size = 2")
    });
    let write = |file: &str, lengths: &[usize]| {
        let named = |(number, &length): (usize, &usize)| document(&format!("{file}{number}"), length);
        let text: String = lengths.iter().enumerate().map(named).collect();
        fs::write(folder.path().join("data").join(format!("{file}.conll")), text).unwrap();
    };
    write("train", &[9, 3, 12, 5]);
    write("dev", &[8, 2]);
    folder
}

fn scored(folder: &Path, gold: &str, predictions: &str) -> serde_json::Value {
    let arguments =
        ["score", "conll2012", "--json", "--set", "details=true", "--gold", gold, "--pred", predictions];
    serde_json::from_str(&succeeds(host(folder, &arguments)).0).unwrap()
}

#[test]
fn documents_are_learned_written_and_scored_again() {
    let folder = documents();
    let path = folder.path();
    succeeds(host(path, &["run", "experiment.toml", "--method", "fft"]));
    let run = path.join("runs/experiment");
    let (name, record) = cells(&run).remove(0);
    let metrics = &record["result"]["metrics"][0]["metrics"];
    // The same two names in every document: this is learned by heart.
    assert!(metrics["conll_f1"].as_f64().unwrap() > 0.9, "{metrics}");
    let response = run.join("cells").join(&name).join("dev-response.conll");
    let text = fs::read_to_string(&response).unwrap();
    assert_eq!(text.matches("#begin document").count(), 2);
    let found = scored(path, "data/dev.conll", &response.display().to_string());
    for (name, value) in metrics.as_object().unwrap() {
        assert_eq!(found["metrics"][name], *value, "{name}");
    }
    assert_eq!(found["examples"], 2);
    let lines = run.join("cells").join(&name).join("predictions-dev.jsonl");
    assert_eq!(scored(path, "data/dev.conll", &lines.display().to_string())["metrics"], found["metrics"]);

    // A document that is missing has no mentions, one that is not asked for does not count.
    let second = text.find("#begin document (dev1)").unwrap();
    let other = document("unknown", 1);
    fs::write(path.join("less.conll"), format!("{other}{}", &text[second..])).unwrap();
    let less = scored(path, "data/dev.conll", "less.conll");
    let recall = |scores: &serde_json::Value| scores["metrics"]["mention_recall"].as_f64().unwrap();
    assert!((recall(&less) - recall(&found) * 0.2).abs() < 0.05, "{less}");
    let (text, _) = succeeds(host(path, &["eval", "runs/experiment"]));
    assert!(text.contains("agree with what was recorded") && !text.contains("differs"), "{text}");
}

#[test]
fn virtual_tokens_stand_before_every_window() {
    let folder = documents();
    let config = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    let prompt = "[methods.prompt-tuning]\nnum_virtual_tokens = 3\n";
    fs::write(folder.path().join("experiment.toml"), config + prompt).unwrap();
    let arguments = ["run", "experiment.toml", "--method", "prompt-tuning", "--set", "training.max_steps=3"];
    let (table, _) = succeeds(host(folder.path(), &arguments));
    assert!(table.contains("conll f1") || table.contains("conll F1"), "{table}");
}

#[test]
fn brackets_that_do_not_match_are_told_with_file_and_line() {
    let folder = documents();
    let path = folder.path().join("data/train.conll");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("1)", "-", 1)).unwrap();
    let error = fails(host(folder.path(), &["plan", "experiment.toml", "--summary"]), 1);
    assert!(error.contains("data/train.conll:1: ") && error.contains("has no end"), "{error}");
}

/// A bar that parts nothing is an error where it is learned from, and overlooked where it
/// is scored, as by the official scorer.
#[test]
fn a_cell_that_is_no_list_is_told_in_training_and_scored_all_the_same() {
    let folder = documents();
    let path = folder.path();
    let dev = fs::read_to_string(path.join("data/dev.conll")).unwrap();
    fs::write(path.join("bars.conll"), dev.replace("(0)", "(0)|").replace("(1", "||(1")).unwrap();
    let metrics = scored(path, "data/dev.conll", "bars.conll");
    assert_eq!(metrics["metrics"]["conll_f1"], 1.0, "{metrics}");
    let train = path.join("data/train.conll");
    fs::write(&train, fs::read_to_string(&train).unwrap().replacen("(0)", "(0)|", 1)).unwrap();
    let error = fails(host(path, &["plan", "experiment.toml", "--summary"]), 1);
    assert!(
        error.contains("data/train.conll:1: ") && error.contains("line 2: \"(0)|\" is no list"),
        "{error}"
    );
}

/// What should be found is shown in words, an entity a line.
#[test]
fn the_data_are_shown_with_their_entities() {
    let folder = documents();
    let (text, _) = succeeds(host(folder.path(), &["data", "experiment.toml", "--examples", "1"]));
    assert!(text.contains("\n  mentions: 20 spans in 4 groups\n"), "{text}");
    assert!(text.contains(&format!("\n    mentions: word7{}\n", " | word7".repeat(7))), "{text}");
    assert!(
        text.contains(&format!("\n    mentions: word11 word12{}\n", " | word11 word12".repeat(7))),
        "{text}"
    );
}

/// A document that nobody has answered has all of its mentions missed, whatever the form of
/// the others' answers.
#[test]
fn documents_without_a_prediction_are_counted_and_missed() {
    let folder = documents();
    let path = folder.path();
    let gold = document("a", 3) + &document("b", 3);
    fs::write(path.join("gold.conll"), gold).unwrap();
    fs::write(path.join("one.conll"), document("a", 3)).unwrap();
    let mentions = (0..3).flat_map(|n| [(5 * n, 5 * n, 0), (5 * n + 2, 5 * n + 3, 1)]);
    let one = serde_json::json!({ "mentions": mentions.collect::<Vec<_>>() });
    fs::write(path.join("one.jsonl"), format!("{one}\n{}\n", serde_json::json!({ "mentions": null })))
        .unwrap();
    for predictions in ["one.conll", "one.jsonl"] {
        let arguments = ["score", "conll2012", "--gold", "gold.conll", "--pred", predictions];
        let (_, log) = succeeds(host(path, &arguments));
        assert!(log.contains("1 of 2 examples have no prediction; they count as wrong"), "{log}");
        let metrics = &scored(path, "gold.conll", predictions)["metrics"];
        assert_eq!((&metrics["mention_recall"], &metrics["mention_precision"]), (&0.5.into(), &1.0.into()));
    }
}

/// The cases of the official scorer, where they are there.
#[test]
fn scores_are_those_of_the_official_scorer() {
    let Some(data) = std::env::var_os("HOST_TEST_DATA") else {
        println!("skipped: HOST_TEST_DATA is not set");
        return;
    };
    let files = Path::new(&data).join("coref-scorer");
    let text = fs::read_to_string(files.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names =
        [("muc", "muc"), ("bcub", "b_cubed"), ("ceafm", "ceaf_m"), ("ceafe", "ceaf_e"), ("blanc", "blanc")];
    for case in expected["cases"].as_array().unwrap() {
        let file = |key: &str| files.join(case[key].as_str().unwrap()).display().to_string();
        let found = scored(folder.path(), &file("key"), &file("response"));
        for (theirs, ours) in names {
            let Some(wanted) = case["expected"].get(theirs) else { continue };
            for (place, part) in ["recall", "precision", "f1"].into_iter().enumerate() {
                let score = found["metrics"][format!("{ours}_{part}")].as_f64().unwrap();
                let wanted = wanted[place].as_f64().unwrap();
                assert!((score - wanted).abs() <= 1e-4, "{} {ours} {part}: {score}, {wanted}", case["id"]);
            }
        }
    }
}
