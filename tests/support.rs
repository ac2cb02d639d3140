//! What the whole-program tests share: running the binary, small data, the
//! golden checkpoint.

#![allow(dead_code)] // Each test file uses a part of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the repository.
pub fn root() -> PathBuf {
    match std::env::var_os("HOST_TEST_ROOT") {
        // The tests also run away from where they were compiled (tests/gpu).
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf(),
    }
}

/// The binary with arguments, in a folder, with a cache and plugins of its own.
pub fn host(folder: &Path, arguments: &[&str]) -> Command {
    let binary = std::env::var_os("HOST_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_host").into());
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", cache())
        .env("XDG_DATA_HOME", folder.join("data-home"));
    command.env_remove("HOST_PLUGIN_DIR").env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
    command
}

/// One cache for all tests: compiled plugins are the same for all.
fn cache() -> PathBuf {
    match std::env::var_os("HOST_TEST_ROOT") {
        Some(_) => std::env::temp_dir().join("host-tests-cache"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
    }
}

/// What a command that should succeed has printed.
#[track_caller]
pub fn succeeds(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{:?} failed with {}\n{out}\n{err}", command.get_args(), output.status);
    (out, err)
}

/// The complaint of a command that should fail with this exit code, and that
/// should not panic.
#[track_caller]
pub fn fails(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{:?}\n{out}\n{err}", command.get_args());
    assert!(!err.contains("panicked"), "{err}");
    out + &err
}

fn texts(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// The checkpoint that the reference script has written.
pub fn checkpoint() -> PathBuf {
    root().join("tests/golden/bert/checkpoint")
}

/// A folder with a copy of the checkpoint, a little data, and a config for
/// them; the config's text is changed by `change` first.
pub fn experiment(change: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("model")).unwrap();
    for name in ["config.json", "vocab.txt", "model.safetensors"] {
        fs::copy(checkpoint().join(name), path.join("model").join(name)).unwrap();
    }
    fs::create_dir(path.join("data")).unwrap();
    let lines = |count: usize| {
        (0..count).map(|n| format!("{} word{} word{}\n", n % 5, 5 + n % 80, 6 + n % 7)).collect::<String>()
    };
    fs::write(path.join("data/stsa.fine.train"), lines(40)).unwrap();
    fs::write(path.join("data/stsa.fine.dev"), lines(15)).unwrap();
    fs::write(path.join("experiment.toml"), change(CONFIG.to_string())).unwrap();
    folder
}

pub const CONFIG: &str = r#"
threads = 2
[model]
path = "model"
[data]
path = "data"
[task]
name = "sst5"
[training]
num_train_epochs = 2
per_device_train_batch_size = 8
learning_rate = 1e-3
[methods.fft]
[methods.lora]
r = 4
bias = "lora_only"
"#;

/// Puts the golden checkpoint of a family with a decoder in a model's place, with a
/// tokenizer of whole words whose sequences end as the family's own do.
pub fn decoder_model(family: &str, model: &Path) {
    let checkpoint = if family == "t5" { "t5/relu" } else { "bart/checkpoint" };
    for name in ["config.json", "model.safetensors"] {
        fs::copy(root().join("tests/golden").join(checkpoint).join(name), model.join(name)).unwrap();
    }
    let (special, start): (&[&str], _) = match family {
        "t5" => (&["<pad>", "</s>", "<unk>"], None),
        _ => (&["<s>", "<pad>", "</s>", "<unk>", "<mask>"], Some("<s>")),
    };
    let word = |id: usize| special.get(id).map_or(format!("word{id}"), |token| token.to_string());
    let vocabulary: serde_json::Map<_, _> = (0..96).map(|id| (word(id), id.into())).collect();
    let added = |(id, content): (usize, &&str)| {
        serde_json::json!({
            "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let token = |token: &str| serde_json::json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str| serde_json::json!({ "Sequence": { "id": id, "type_id": 0 } });
    let framed = |texts: &[&str]| -> Vec<serde_json::Value> {
        let texts = texts.iter().flat_map(|id| [text(id), token("</s>")]);
        start.map(token).into_iter().chain(texts).collect()
    };
    let used = special.iter().enumerate().filter(|(_, token)| ["<s>", "</s>"].contains(token));
    let used: serde_json::Map<_, _> = used
        .map(|(id, token)| {
            (token.to_string(), serde_json::json!({ "id": token, "ids": [id], "tokens": [token] }))
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
        "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": {
            "type": "TemplateProcessing", "single": framed(&["A"]), "pair": framed(&["A", "B"]),
            "special_tokens": used,
        },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// The records of the cells of a run, by directory name.
pub fn cells(run: &Path) -> Vec<(String, serde_json::Value)> {
    let mut cells = Vec::new();
    for entry in fs::read_dir(run.join("cells")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path().join("result.json"));
        if let Ok(text) = text {
            cells.push((
                entry.file_name().to_string_lossy().into_owned(),
                serde_json::from_str(&text).unwrap(),
            ));
        }
    }
    cells.sort_by(|a, b| a.0.cmp(&b.0));
    cells
}
