//! The rules of the house that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All files under a folder with one of the endings, build outputs aside.
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files(&path, endings, found);
        } else if path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| endings.contains(&ending))
        {
            found.push(path);
        }
    }
}

/// The text in words of letters and digits, lower case.
fn words(text: &str) -> Vec<String> {
    text.split(|letter: char| !letter.is_alphanumeric()).map(str::to_lowercase).collect()
}

/// Methods and tasks are plugins and nothing else: the host's source has no
/// name of one, its tests aside.
#[test]
fn the_host_names_no_method_and_no_task() {
    let mut sources = Vec::new();
    files(&root().join("host"), &["rs"], &mut sources);
    assert!(sources.len() > 50, "the host's sources are not where this test looks");
    let forbidden = [
        "lora",
        "bitfit",
        "dora",
        "adalora",
        "sst",
        "sst5",
        "boolq",
        "xsum",
        "commonsense",
        "commonsenseqa",
        "conll",
    ];
    for path in sources {
        let name = path.display().to_string();
        if name.contains("/tests/") || name.ends_with("_tests.rs") || name.ends_with("/tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let found = words(line).into_iter().find(|word| forbidden.contains(&word.as_str()));
            assert!(found.is_none(), "{name}:{}: the host names {}", number + 1, found.unwrap_or_default());
        }
    }
}

/// Each room imports only what the house allows.
#[test]
fn imports_go_one_way() {
    let rules: [(&str, &[&str]); 3] = [
        ("host/ir", &["wasmtime", "candle_core", "candle_nn", "host_engine", "host_plugin"]),
        ("host/engine/src", &["wasmtime", "host_plugin"]),
        ("host/plugin/src", &["candle_core", "candle_nn", "host_engine"]),
    ];
    for (room, forbidden) in rules {
        let mut sources = Vec::new();
        files(&root().join(room), &["rs"], &mut sources);
        assert!(!sources.is_empty(), "{room} is empty");
        for path in sources {
            let text = fs::read_to_string(&path).unwrap();
            for name in forbidden {
                assert!(!text.contains(&format!("{name}::")), "{} imports {name}", path.display());
            }
        }
    }
}
