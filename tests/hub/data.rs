//! The data sets that configs name: files called as the hub has them, with a few rows of
//! our own (tests/reference/parquet.py), fetched and read.

use std::fs;

use super::server::Repository;
use super::support::{decoder_model, fails, root, succeeds};
use super::{COMMIT, Lab};

const SENTENCES: &[u8] = b"{\"text\": \"a fine film\", \"label\": 3, \"label_text\": \"positive\"}\n\
    {\"text\": \"a dull film\", \"label\": 1, \"label_text\": \"negative\"}\n\
    {\"text\": \"a film\", \"label\": 2, \"label_text\": \"neutral\"}\n";

fn golden(name: &str) -> Vec<u8> {
    fs::read(root().join("tests/golden/hub").join(name)).unwrap()
}

/// A lab whose folder `decoder` has a model with a decoder, and `model` one without.
fn lab() -> Lab {
    let lab = Lab::new();
    let decoder = lab.path().join("decoder");
    fs::create_dir(&decoder).unwrap();
    decoder_model("bart", &decoder);
    lab
}

/// Puts a data set at the hub, fetches what a config wants of it, and reads it without
/// network; answers what `host data` says.
fn read(lab: &Lab, config: &str, model: &str, name: &str, more: &[&str], files: &[(&str, &[u8])]) -> String {
    let revision = more.iter().find_map(|set| set.strip_prefix("data.revision=")).unwrap_or("main");
    let others: [(&str, &[u8]); 2] = [(".gitattributes", b"x"), ("README.md", b"# data")];
    let large: Vec<_> = files.iter().chain(&others).map(|&(name, bytes)| (name, bytes, true)).collect();
    let mut repository = Repository::default();
    repository.commit(revision, 'a', &large);
    lab.server.add(&format!("datasets/{name}"), repository);
    let config = root().join("configs").join(config);
    let model = format!("model.path={model}");
    let mut keys = vec![config.to_str().unwrap(), "--set", &model];
    more.iter().for_each(|set| keys.extend(["--set", set]));
    let (out, _) = succeeds(lab.command(&[&["fetch"], &keys[..]].concat()));
    assert!(out.contains(&format!("{COMMIT}: {} files", files.len())) && out.contains(name), "{out}");
    succeeds(lab.offline(&[&["data"], &keys[..]].concat())).0
}

/// Every split of three rows is read.
#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in\n{text}");
    }
}

#[test]
fn data_sets_that_configs_name_are_fetched_and_read() {
    let lab = lab();
    let lines: [(&str, &[u8]); 3] =
        [("train.jsonl", SENTENCES), ("dev.jsonl", SENTENCES), ("test.jsonl", SENTENCES)];
    let text = read(&lab, "sst5.toml", "model", "SetFit/sst5", &[], &lines);
    has(&text, &["train: 3 examples", "dev: 3 examples", "test: 3 examples", "positive 1 (33.3%)"]);

    let (rows, unanswered) = (golden("commonsenseqa.parquet"), golden("commonsenseqa_test.parquet"));
    let parts: [(&str, &[u8]); 3] = [
        ("data/train-00000-of-00001.parquet", &rows),
        ("data/validation-00000-of-00001.parquet", &rows),
        ("data/test-00000-of-00001.parquet", &unanswered),
    ];
    let text = read(&lab, "commonsenseqa.toml", "model", "tau/commonsense_qa", &[], &parts);
    has(&text, &["dev: 3 examples", "answer: A 1 (33.3%), B 0 (0.0%), C 2 (66.7%)", "answer: without 3"]);

    let rows = golden("boolq_slovene.parquet");
    let parts: [(&str, &[u8]); 2] =
        [("data/train-00000-of-00001.parquet", &rows), ("data/eval-00000-of-00001.parquet", &rows)];
    let name = "tjasad/Slovene_SuperGLUE_GoogleMT_BoolQ";
    let text = read(&lab, "boolq-sl.toml", "model", name, &[], &parts);
    has(&text, &["val: 3 examples", "label: false 1 (33.3%), true 2 (66.7%)"]);

    let rows = golden("xsum.parquet");
    let parts: [(&str, &[u8]); 3] = [
        ("data/train-00000-of-00001.parquet", &rows),
        ("data/validation-00000-of-00001.parquet", &rows),
        ("data/test-00000-of-00001.parquet", &rows),
    ];
    let text = read(&lab, "xsum.toml", "decoder", "EdinburghNLP/xsum", &[], &parts);
    has(&text, &["train: 3 examples", "dev: 3 examples", "test: 3 examples", "tokens a target: "]);
}

/// The English questions, whose answers are called so.
#[test]
fn another_data_set_of_the_task_is_a_key() {
    let lab = lab();
    let rows = golden("boolq_english.parquet");
    let parts: [(&str, &[u8]); 2] =
        [("data/train-00000-of-00001.parquet", &rows), ("data/validation-00000-of-00001.parquet", &rows)];
    let text = read(&lab, "boolq-sl.toml", "model", "google/boolq", &["data.name=google/boolq"], &parts);
    has(&text, &["val: 3 examples", "label: false 1 (33.3%), true 2 (66.7%)"]);
}

/// A data set that is a script says where its rows are, which the plugin reads there.
#[test]
fn a_script_is_not_run_and_the_hubs_own_parquet_is_read() {
    let lab = lab();
    let archive = "data/XSUM-EMNLP18-Summary-Data-Original.tar.gz";
    lab.server.add(
        "datasets/EdinburghNLP/xsum",
        Repository::new(&[("xsum.py", b"import datasets", false), (archive, b"x", true)]),
    );
    let config = root().join("configs/xsum.toml");
    let fetch = ["fetch", config.to_str().unwrap(), "--set", "model.path=decoder"];
    let said = fails(lab.command(&fetch), 1);
    has(&said, &["lacks file for the split train", "the script xsum.py is not run", "refs/convert/parquet"]);

    let rows = golden("xsum.parquet");
    let parts: [(&str, &[u8]); 3] = [
        ("default/train/0000.parquet", &rows),
        ("default/validation/0000.parquet", &rows),
        ("default/test/0000.parquet", &rows),
    ];
    let revision = ["data.revision=refs/convert/parquet"];
    let text = read(&lab, "xsum.toml", "decoder", "EdinburghNLP/xsum", &revision, &parts);
    has(&text, &["train: 3 examples", "dev: 3 examples", "test: 3 examples"]);
}
