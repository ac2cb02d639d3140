//! Files of models: reading config.json and safetensors, writing safetensors,
//! digests of contents.

mod checkpoint;
mod configuration;
mod digest;
mod tensors;
mod write;

use std::fs;
use std::path::{Path, PathBuf};

pub use checkpoint::Checkpoint;
pub use configuration::Configuration;
pub use digest::digest_files;
pub use tensors::Tensors;
pub use write::{StoredType, write_safetensors};

/// What can go wrong with a file of a model.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be written: {source}", .path.display())]
    Unwritable { path: PathBuf, source: std::io::Error },
    #[error("{} is not a folder; a checkpoint is a folder with config.json and model.safetensors", .path.display())]
    NotAFolder { path: PathBuf },
    #[error("{} has no {wanted}; {}{hint}", .folder.display(), listing(.found))]
    Missing { folder: PathBuf, wanted: &'static str, found: Vec<String>, hint: &'static str },
    #[error("{index} names the file {file}, which is not in {}; {}", .folder.display(), listing(.found))]
    MissingShard { index: String, file: String, folder: PathBuf, found: Vec<String> },
    #[error("{origin} is not valid JSON: {source}")]
    Json { origin: String, source: serde_json::Error },
    #[error("{origin}: {key} {problem}")]
    Configuration { origin: String, key: String, problem: String },
    #[error(
        "{origin} is cut short: it has {has} bytes and its header promises {wanted}; copy or fetch it again"
    )]
    Truncated { origin: String, wanted: u64, has: u64 },
    #[error("{origin} is not a safetensors file: {reason}")]
    NotSafetensors { origin: String, reason: String },
    #[error("{origin} has no tensor {name}{}", .nearest.as_ref().map_or(String::new(), |name| format!("; the nearest is {name}")))]
    MissingTensor { origin: String, name: String, nearest: Option<String> },
    #[error("{origin}: the tensor {name} has the shape {has:?}, and {wanted:?} is wanted")]
    Shape { origin: String, name: String, wanted: Vec<usize>, has: Vec<usize> },
    #[error("{origin}: the tensor {name} is stored as {dtype}; F32, F16 and BF16 can be read")]
    Dtype { origin: String, name: String, dtype: String },
}

impl FileError {
    fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> FileError {
        let path = path.to_path_buf();
        |source| FileError::Unreadable { path, source }
    }
}

/// "it has: a, b" for an error.
fn listing(found: &[String]) -> String {
    const SHOWN: usize = 12;
    match found.len() {
        0 => "it is empty".into(),
        count if count > SHOWN => {
            format!("it has: {} and {} more", found[..SHOWN].join(", "), count - SHOWN)
        }
        _ => format!("it has: {}", found.join(", ")),
    }
}

/// The names in a folder, sorted; none where it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}
