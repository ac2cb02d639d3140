//! Real data in its own formats, where HOST_TEST_DATA names the folder that has
//! it; else these tests say that they were skipped.

mod support;

use std::fs;
use std::path::PathBuf;

use support::{cells, experiment, host, succeeds};

fn data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HOST_TEST_DATA").map(|folder| PathBuf::from(folder).join(name));
    let found = folder.filter(|folder| folder.is_dir());
    if found.is_none() {
        println!("skipped: HOST_TEST_DATA has no folder {name}");
    }
    found
}

#[test]
fn the_treebank_is_read_whole_in_all_its_forms() {
    let Some(source) = data("sst5") else { return };
    let count = |change: fn(&str) -> String, names: [&str; 2]| {
        let folder = experiment(|config| config.replace("num_train_epochs = 2", "max_steps = 1"));
        fs::remove_dir_all(folder.path().join("data")).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        for (from, to) in ["stsa.fine.train", "stsa.fine.dev"].iter().zip(names) {
            let text = fs::read_to_string(source.join(from)).unwrap();
            let text: String = text.lines().map(|line| change(line) + "\n").collect();
            fs::write(folder.path().join("data").join(to), text).unwrap();
        }
        let (_, log) = succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
        assert!(log.contains("8,544 train, 1,101 dev examples"), "{log}");
        cells(&folder.path().join("runs/experiment"))[0].1["result"]["metrics"].to_string()
    };
    let lines = count(str::to_string, ["stsa.fine.train", "stsa.fine.dev"]);
    let json = count(
        |line| {
            let (label, text) = line.split_once(' ').unwrap();
            serde_json::json!({"text": text, "label": label.parse::<i64>().unwrap(), "label_text": "x"})
                .to_string()
        },
        ["train.jsonl", "validation.jsonl"],
    );
    let trees = count(
        |line| {
            let (label, text) = line.split_once(' ').unwrap();
            let words =
                text.replace('(', "-LRB-").replace(')', "-RRB-").replace('/', "\\/").replace('*', "\\*");
            let leaves: Vec<String> = words.split(' ').map(|word| format!("(2 {word})")).collect();
            format!("({label} {})", leaves.join(" "))
        },
        ["train.txt", "dev.txt"],
    );
    assert_eq!(lines, json);
    assert_eq!(lines, trees);
}
