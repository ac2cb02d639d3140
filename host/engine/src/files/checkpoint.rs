//! A checkpoint in the hub's layout: config.json beside model.safetensors, or
//! beside the shards that model.safetensors.index.json lists.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Configuration, FileError, Tensors, names_in};

const CONFIGURATION: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model's configuration and tensors.
pub struct Checkpoint {
    pub configuration: Configuration,
    pub tensors: Tensors,
    files: Vec<PathBuf>,
}

/// The index of a checkpoint in shards; the map's values are file names.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder. Headers are read; tensors when they are loaded.
    pub fn open(folder: &Path) -> Result<Checkpoint, FileError> {
        if !folder.is_dir() {
            return match folder.metadata() {
                Ok(_) => Err(FileError::NotAFolder { path: folder.to_path_buf() }),
                Err(source) => Err(FileError::Unreadable { path: folder.to_path_buf(), source }),
            };
        }
        let path = folder.join(CONFIGURATION);
        if !path.is_file() {
            return Err(missing(folder, CONFIGURATION, ""));
        }
        let json = fs::read(&path).map_err(FileError::unreadable(&path))?;
        let configuration = Configuration::parse(&json, &path.display().to_string())?;
        let mut files = vec![path];
        let tensors = if folder.join(WEIGHTS).is_file() {
            files.push(folder.join(WEIGHTS));
            Tensors::open(&files[1..])?
        } else if folder.join(INDEX).is_file() {
            let (shards, names) = shards(folder)?;
            files.push(folder.join(INDEX));
            files.extend(shards.iter().cloned());
            let tensors = Tensors::open(&shards)?;
            if let Some(name) = names.into_iter().find(|name| !tensors.has(name)) {
                let origin = shards.first().unwrap_or(&folder.join(INDEX)).display().to_string();
                return Err(FileError::MissingTensor { origin, name, nearest: None });
            }
            tensors
        } else {
            let older = folder.join("pytorch_model.bin").is_file();
            let hint = if older {
                "; pytorch_model.bin is the older format, which `save_pretrained` of transformers converts"
            } else {
                ""
            };
            return Err(missing(folder, WEIGHTS, hint));
        };
        Ok(Checkpoint { configuration, tensors, files })
    }

    /// A checkpoint held in memory.
    pub fn from_bytes(
        config_json: &[u8],
        safetensors: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Checkpoint, FileError> {
        Ok(Checkpoint {
            configuration: Configuration::parse(config_json, "the embedded config.json")?,
            tensors: Tensors::from_bytes(safetensors, "the embedded model.safetensors")?,
            files: Vec::new(),
        })
    }

    /// The files that it was read from, by which it can be digested.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

fn missing(folder: &Path, wanted: &'static str, hint: &'static str) -> FileError {
    FileError::Missing { folder: folder.to_path_buf(), wanted, found: names_in(folder), hint }
}

/// The shards that the index lists, and the names of the tensors in them.
fn shards(folder: &Path) -> Result<(Vec<PathBuf>, Vec<String>), FileError> {
    let path = folder.join(INDEX);
    let json = fs::read(&path).map_err(FileError::unreadable(&path))?;
    let index: Index = serde_json::from_slice(&json)
        .map_err(|source| FileError::Json { origin: path.display().to_string(), source })?;
    let files: BTreeSet<&String> = index.weight_map.values().collect();
    let mut paths = Vec::new();
    for file in files {
        let shard = folder.join(file);
        if !shard.is_file() {
            return Err(FileError::MissingShard {
                index: path.display().to_string(),
                file: file.clone(),
                folder: folder.to_path_buf(),
                found: names_in(folder),
            });
        }
        paths.push(shard);
    }
    Ok((paths, index.weight_map.into_keys().collect()))
}

#[cfg(test)]
mod tests;
