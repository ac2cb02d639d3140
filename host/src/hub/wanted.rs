//! Which of a repository's files a run needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use host_engine::data::find;
use host_ir::task::Layout;

use super::Kind;

/// What a run needs of a repository.
pub enum Wanted<'a> {
    /// The configuration, the weights, and of these further names those that
    /// there are; one of them at least, for they make the tokenizer.
    Model { further: &'a [&'a str] },
    /// The files in which the task finds its splits, or those given for them.
    Data { layout: &'a Layout, files: &'a BTreeMap<String, PathBuf> },
}

/// Names of files out of a list of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub files: Vec<String>,
    /// Of the files, the one that names further ones.
    pub index: Option<String>,
    /// What is needed and not in the list, in words.
    pub missing: Vec<String>,
}

const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

impl Wanted<'_> {
    pub fn kind(&self) -> Kind {
        match self {
            Wanted::Model { .. } => Kind::Model,
            Wanted::Data { .. } => Kind::Data,
        }
    }

    /// What helps where a repository lacks what is wanted; with a semicolon before it.
    ///
    /// Older data sets are a script that gathers the data; from many of those the hub has
    /// made files.
    pub fn advice(&self, names: &[String]) -> String {
        let script = names.iter().find(|name| name.ends_with(".py") && !name.contains('/'));
        match (self, script) {
            (Wanted::Data { .. }, Some(script)) => format!(
                "; the script {script} is not run: where the hub has made Parquet of what it gathers, that is in \
                 the revision refs/convert/parquet (data.revision)"
            ),
            _ => String::new(),
        }
    }

    /// Chooses from the names of a repository's files.
    pub fn choose(&self, names: &[String]) -> Choice {
        match self {
            Wanted::Model { further } => model(names, further),
            Wanted::Data { layout, files } => {
                let (files, missing) = find::among(layout, names, files);
                Choice { files, index: None, missing }
            }
        }
    }
}

/// Weights in one form alone, which a checkpoint's reader would take first too.
fn model(names: &[String], further: &[&str]) -> Choice {
    let has = |name: &str| names.iter().any(|known| known == name);
    let mut choice = Choice::default();
    match has("config.json") {
        true => choice.files.push("config.json".into()),
        false => choice.missing.push("config.json".into()),
    }
    if has("generation_config.json") {
        choice.files.push("generation_config.json".into());
    }
    let there: Vec<String> = further.iter().filter(|name| has(name)).map(|name| name.to_string()).collect();
    if there.is_empty() {
        choice.missing.push(format!("file of a tokenizer ({})", further.join(", ")));
    }
    choice.files.extend(there);
    let index = |name: &str| format!("{name}.index.json");
    match WEIGHTS.into_iter().find(|name| has(name) || has(&index(name))) {
        Some(name) if has(name) => choice.files.push(name.into()),
        Some(name) => {
            choice.files.push(index(name));
            choice.index = Some(index(name));
        }
        None => choice.missing.push("model.safetensors or pytorch_model.bin, whole or in parts".into()),
    }
    choice
}

/// The files that an index of weights names.
///
/// # Errors
/// A file that is no index, in words.
pub fn shards(index: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read(index).map_err(|error| error.to_string())?;
    let parsed: serde_json::Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let map = parsed.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or("there is no weight_map")?;
    let mut names: Vec<String> =
        map.values().filter_map(serde_json::Value::as_str).map(String::from).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Whether a name is a path below a folder and leads nowhere else.
pub fn is_below(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Choice {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        Wanted::Model { further: &["tokenizer.json", "vocab.txt"] }.choose(&names)
    }

    #[test]
    fn weights_are_taken_in_one_form() {
        let base = ["README.md", "config.json", "vocab.txt", "tf_model.h5"];
        let files = |more: &[&str]| chosen(&[&base[..], more].concat()).files;
        assert_eq!(
            files(&["pytorch_model.bin", "model.safetensors"]),
            ["config.json", "vocab.txt", "model.safetensors"]
        );
        assert_eq!(files(&["pytorch_model.bin"]), ["config.json", "vocab.txt", "pytorch_model.bin"]);
        let sharded = chosen(
            &[&base[..], &["pytorch_model.bin", "model.safetensors.index.json", "model-1.safetensors"]]
                .concat(),
        );
        assert_eq!(sharded.files, ["config.json", "vocab.txt", "model.safetensors.index.json"]);
        assert_eq!(sharded.index.as_deref(), Some("model.safetensors.index.json"));
        assert!(sharded.missing.is_empty());
    }

    #[test]
    fn what_a_model_lacks_is_named() {
        assert_eq!(
            chosen(&["tf_model.h5"]).missing,
            [
                "config.json",
                "file of a tokenizer (tokenizer.json, vocab.txt)",
                "model.safetensors or pytorch_model.bin, whole or in parts"
            ]
        );
    }

    #[test]
    fn shards_are_those_of_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, r#"{"weight_map": {"a": "m-2", "b": "m-1", "c": "m-2"}}"#).unwrap();
        assert_eq!(shards(&index).unwrap(), ["m-1", "m-2"]);
        std::fs::write(&index, "{}").unwrap();
        assert_eq!(shards(&index).unwrap_err(), "there is no weight_map");
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        assert!(is_below("a") && is_below("a/b.c") && is_below(".gitattributes"));
        assert!(["", "/a", "a/../b", "..", "a//b", "./a", "a\\b"].iter().all(|name| !is_below(name)));
    }
}
