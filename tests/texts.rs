//! A task that says texts, through the whole program: models with a decoder train,
//! generate, are scored, and give the same again.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{cells, decoder_model, experiment, fails, host, succeeds};

const TASK: &str = "name = \"xsum\"\nmax_source_length = 20\nmax_target_length = 8\nmax_new_tokens = 6\n\
    min_new_tokens = 2\nnum_beams = 2";

/// A model of a family, and articles with summaries; the last of dev has none.
fn articles(family: &str) -> tempfile::TempDir {
    let folder = experiment(|config| {
        config
            .replace("name = \"sst5\"", TASK)
            .replace("num_train_epochs = 2", "max_steps = 2")
            .replace("per_device_train_batch_size = 8", "per_device_train_batch_size = 4")
            .replace("r = 4\nbias = \"lora_only\"", "r = 4")
    });
    decoder_model(family, &folder.path().join("model"));
    let line = |n: usize| {
        let words = |first: usize, count: usize| -> String {
            (0..count).map(|k| format!("word{} ", 5 + (first + 7 * k) % 80)).collect()
        };
        json!({ "document": words(n, 9 + n % 4), "summary": words(3 * n, 3 + n % 3), "id": n.to_string() })
    };
    let lines =
        |range: std::ops::Range<usize>| -> String { range.map(|n| format!("{}\n", line(n))).collect() };
    let data = folder.path().join("data");
    fs::write(data.join("train.jsonl"), lines(0..10)).unwrap();
    let without = json!({ "document": "word5 word6 word7" });
    fs::write(data.join("validation.jsonl"), format!("{}{without}\n", lines(20..23))).unwrap();
    folder
}

#[test]
fn a_summary_that_is_too_long_is_an_error_where_the_config_says_so() {
    let folder = articles("t5");
    let path = folder.path();
    let config = fs::read_to_string(path.join("experiment.toml")).unwrap();
    fs::write(path.join("experiment.toml"), config.replace("[task]", "too_long = \"error\"\n[task]"))
        .unwrap();
    let train = path.join("data/train.jsonl");
    let long = json!({ "document": "word5 word6", "summary": "word7 ".repeat(20), "id": "long" });
    fs::write(&train, format!("{}{long}\n", fs::read_to_string(&train).unwrap())).unwrap();
    let text = fails(host(path, &["run", "experiment.toml"]), 1);
    assert!(text.contains("1 of 11 targets of train have more than 8 tokens"), "{text}");
}

/// A T5 has no positions that an article could be too long for, and a BART has: what the task
/// lets through is an error there, or cut and counted.
#[test]
fn an_article_is_cut_only_where_task_or_model_says_so() {
    for (family, positions) in [("t5", None), ("bart", Some(30))] {
        let folder = articles(family);
        let path = folder.path();
        let long = json!({ "document": "word5 ".repeat(300), "summary": "word7", "id": "long" });
        let train = path.join("data/train.jsonl");
        fs::write(&train, format!("{}{long}\n", fs::read_to_string(&train).unwrap())).unwrap();
        let (wide, strict) = ("task.max_source_length=400", "data.too_long=error");
        let arguments = ["plan", "experiment.toml", "--method", "fft", "--summary", "--set", wide];
        let (text, log) = succeeds(host(path, &arguments));
        let log = text + &log;
        let cut = positions.map(|tokens| format!("1 of 11 sequences of train were cut to {tokens} tokens"));
        assert_eq!(log.contains("were cut"), cut.is_some(), "{log}");
        assert!(log.contains(&cut.unwrap_or_default()), "{log}");
        let mut refusing = host(path, &arguments);
        refusing.args(["--set", strict]);
        match positions {
            None => drop(succeeds(refusing)),
            Some(tokens) => {
                let wanted = format!("1 of 11 sequences of train have more than {tokens} tokens");
                let text = fails(refusing, 1);
                assert!(text.contains(&wanted), "{text}");
            }
        }
    }
}

/// The lines of a file of JSON.
fn read(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The records of a run's cells by method.
fn records(run: &Path) -> BTreeMap<String, (String, Value)> {
    let method = |folder: &str| folder.rsplit_once("-s").unwrap().0.to_string();
    cells(run).into_iter().map(|(folder, record)| (method(&folder), (folder, record))).collect()
}

/// Trains with methods, and checks what is left behind; answers the trained parameters
/// of each.
fn trained(family: &str, methods: &[&str]) -> BTreeMap<String, u64> {
    let folder = articles(family);
    let path = folder.path();
    let more: String = methods[2..].iter().map(|method| format!("[methods.{method}]\n")).collect::<String>();
    let config = fs::read_to_string(path.join("experiment.toml")).unwrap() + &more;
    fs::write(path.join("experiment.toml"), config).unwrap();
    let (table, _) = succeeds(host(path, &["run", "experiment.toml"]));
    assert!(table.contains("rougeL"), "{table}");
    let run = path.join("runs/experiment");
    let records = records(&run);
    assert_eq!(records.keys().map(String::as_str).collect::<Vec<_>>(), {
        let mut sorted = methods.to_vec();
        sorted.sort_unstable();
        sorted
    });
    for (method, (cell, record)) in &records {
        let result = &record["result"];
        assert!(result["epochs"][0]["train_loss"].as_f64().unwrap() > 0.0, "{family} {method}: {result}");
        let metrics = &result["metrics"][0]["metrics"];
        let predictions = run.join("cells").join(cell).join("predictions-dev.jsonl");
        let said = read(&predictions);
        assert_eq!(said.len(), 4, "{family} {method}");
        let words = |line: &Value| -> Vec<String> {
            line["summary"].as_str().unwrap().split_whitespace().map(String::from).collect()
        };
        for line in &said {
            let words = words(line);
            assert!((2..=6).contains(&words.len()), "{family} {method}: {line}");
            assert!(words.iter().all(|word| word.starts_with("word")), "{family} {method}: {line}");
        }
        assert!(said[0]["gold_summary"].is_string() && said[3].get("gold_summary").is_none());
        let mean = said[..3].iter().map(|line| words(line).len() as f64).sum::<f64>() / 3.0;
        assert!((metrics["words"].as_f64().unwrap() - mean).abs() < 1e-9, "{family} {method}: {metrics}");
        // Without the model, the same figures.
        let arguments = ["score", "xsum", "--json", "--gold", "data/validation.jsonl", "--pred"];
        let mut score = host(path, &arguments);
        score.arg(&predictions);
        let scored: Value = serde_json::from_str(&succeeds(score).0).unwrap();
        assert_eq!(scored["metrics"], *metrics, "{family} {method}");
    }
    let (text, _) = succeeds(host(path, &["eval", "runs/experiment"]));
    assert!(text.contains("agree with what was recorded") && !text.contains("differs"), "{family}: {text}");
    let count = |record: &Value| record["result"]["counts"]["trained"].as_u64().unwrap();
    records.into_iter().map(|(method, (_, record))| (method, count(&record))).collect()
}

#[test]
fn a_t5_learns_to_say_texts_and_says_them_again() {
    let counts = trained("t5", &["fft", "lora", "prompt-tuning"]);
    // Both matrices of queries and values, rank 4, in 3 + 2 * 2 attentions of 32 to 24.
    assert_eq!((counts["lora"], counts["prompt-tuning"]), (7 * 2 * 4 * (32 + 24), 20 * 32));
    // It has no biases, and its head for texts is no new one.
    let folder = articles("t5");
    let config = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    fs::write(folder.path().join("experiment.toml"), config + "[methods.bitfit]\n").unwrap();
    let error = fails(host(folder.path(), &["run", "experiment.toml", "--method", "bitfit"]), 1);
    assert!(error.contains("trains nothing"), "{error}");
}

#[test]
fn a_bart_learns_to_say_texts_and_says_them_again() {
    let counts = trained("bart", &["fft", "lora", "bitfit", "prompt-tuning"]);
    assert_eq!((counts["lora"], counts["prompt-tuning"]), (8 * 2 * 4 * (32 + 32), 20 * 32));
    // Of a layer four projections and a norm an attention, and two products and a norm.
    let layer = |attentions: u64, inner: u64| attentions * 5 * 32 + inner + 2 * 32;
    assert_eq!(counts["bitfit"], 2 * layer(1, 40) + 3 * layer(2, 36) + 2 * 32);
    // The biases of queries and of first products alone.
    let folder = articles("bart");
    let config = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    let narrow = config + "[methods.bitfit]\nbiases = \"query_intermediate\"\n";
    fs::write(folder.path().join("experiment.toml"), narrow).unwrap();
    let arguments = ["plan", "experiment.toml", "--method", "bitfit", "--summary"];
    let (text, _) = succeeds(host(folder.path(), &arguments));
    assert!(text.contains(&format!("trains {} of ", 2 * (32 + 40) + 3 * (32 + 32 + 36))), "{text}");
}

/// A BART tells what is masked by its decoder. A low-rank update of its output layer, whose
/// weights are the word embeddings, is the output's alone: it is not merged.
#[test]
fn a_bart_is_a_masked_language_model_and_a_t5_is_none() {
    let folder = experiment(|config| {
        config.replace("name = \"sst5\"", "name = \"mlm\"").replace(
            "r = 4\nbias = \"lora_only\"",
            "r = 4\ntarget_modules = [\"q_proj\", \"lm_head\"]\n[methods.prompt-tuning]\nnum_virtual_tokens = 3",
        )
    });
    let path = folder.path();
    decoder_model("bart", &path.join("model"));
    let line =
        |n: usize| (0..9 + n % 5).map(|k| format!("word{} ", 5 + (n + 7 * k) % 80)).collect::<String>();
    let lines = |range: std::ops::Range<usize>| range.map(|n| line(n) + "\n").collect::<String>();
    fs::write(path.join("data/train.txt"), lines(0..24)).unwrap();
    fs::write(path.join("data/dev.txt"), lines(24..32)).unwrap();
    let (text, _) = succeeds(host(path, &["data", "experiment.toml", "--examples", "8"]));
    assert!(text.contains("<mask>") && text.contains("\n    masked: word"), "{text}");
    let (table, _) = succeeds(host(path, &["run", "experiment.toml"]));
    assert!(table.contains("perplexity"), "{table}");
    let records = records(&path.join("runs/experiment"));
    let trained = |method: &str| records[method].1["result"]["counts"]["trained"].as_u64().unwrap();
    assert_eq!(trained("lora"), 4 * (8 * (32 + 32) + 32 + 96));
    let losses: Vec<f64> = records["fft"].1["result"]["epochs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|epoch| epoch["train_loss"].as_f64().unwrap())
        .collect();
    assert!(losses[1] < losses[0], "{losses:?}");
    let (text, _) = succeeds(host(path, &["eval", "runs/experiment"]));
    assert!(text.contains("agree with what was recorded") && !text.contains("differs"), "{text}");
    let refused = fails(host(path, &["merge", "runs/experiment", "--method", "lora", "--out", "merged"]), 1);
    assert!(refused.contains("lm_head shares its weight with model.shared"), "{refused}");
    decoder_model("t5", &path.join("model"));
    let refused = fails(host(path, &["run", "experiment.toml", "--method", "fft"]), 1);
    assert!(refused.contains("a model of the kind t5 has heads for texts"), "{refused}");
}

/// An encoder's layer that makes scores of words is a target as a BART's is, and not merged
/// either. The rest of its head, which this checkpoint lacks, is new and none; where a
/// checkpoint has it, it is the model's and stays as it is.
#[test]
fn an_encoder_tells_masked_tokens_and_its_decoder_is_a_target() {
    let folder = experiment(|config| {
        config.replace("name = \"sst5\"", "name = \"mlm\"").replace(
            "r = 4\nbias = \"lora_only\"",
            "r = 4\ntarget_modules = [\"query\", \"cls.predictions.decoder\"]",
        )
    });
    let path = folder.path();
    let line =
        |n: usize| (0..6 + n % 5).map(|k| format!("word{} ", 5 + (n + 7 * k) % 80)).collect::<String>();
    let lines = |range: std::ops::Range<usize>| range.map(|n| line(n) + "\n").collect::<String>();
    fs::write(path.join("data/train.txt"), lines(0..24)).unwrap();
    fs::write(path.join("data/dev.txt"), lines(24..32)).unwrap();
    succeeds(host(path, &["run", "experiment.toml", "--out", "new"]));
    let trained = |run: &str| {
        let records = records(&path.join(run));
        records["lora"].1["result"]["counts"]["trained"].as_u64().unwrap()
    };
    // Queries of two layers, and the decoder from 32 to 96.
    let factors = 2 * 4 * (32 + 32) + 4 * (32 + 96);
    assert_eq!(trained("new"), factors + (32 * 32 + 32) + 2 * 32 + 96);
    let refused = fails(host(path, &["merge", "new", "--method", "lora", "--out", "merged"]), 1);
    let shared = "cls.predictions.decoder shares its weight with bert.embeddings.word_embeddings";
    assert!(refused.contains(shared), "{refused}");
    let dense = "methods.lora.target_modules=[\"transform.dense\"]";
    let refused = fails(host(path, &["plan", "experiment.toml", "--method", "lora", "--set", dense]), 1);
    assert!(refused.contains("belongs to the head made for the task"), "{refused}");

    succeeds(host(path, &["merge", "new", "--method", "fft", "--out", "whole"]));
    let whole = "model.path=whole";
    succeeds(host(path, &["run", "experiment.toml", "--method", "lora", "--out", "old", "--set", whole]));
    assert_eq!(trained("old"), factors);
    let arguments =
        ["plan", "experiment.toml", "--method", "lora", "--summary", "--set", whole, "--set", dense];
    let (text, _) = succeeds(host(path, &arguments));
    assert!(text.contains(&format!("trains {} of ", 4 * (32 + 32))), "{text}");
}
