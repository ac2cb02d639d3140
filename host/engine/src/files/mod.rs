//! Files of a checkpoint in the hub's layout: config.json, safetensors, and
//! writing them without ever leaving half a file.

pub mod checkpoint;
mod elements;
mod pickled;
pub(crate) mod stored;
pub mod write;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a file cannot be used, as a sentence that names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {sentence}", file.display())]
pub struct FileError {
    pub file: PathBuf,
    pub sentence: String,
}

impl FileError {
    pub fn new(file: impl Into<PathBuf>, sentence: impl ToString) -> FileError {
        FileError { file: file.into(), sentence: sentence.to_string() }
    }
}

/// The digest (BLAKE3) of files: of their names without folders, and contents. They are
/// read, not mapped: of a mapped file all that was looked at counts as memory in use.
///
/// # Errors
/// A file that cannot be read.
pub fn digest(files: &[PathBuf]) -> Result<String, FileError> {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        let content = content(file).map_err(|error| FileError::new(file, error))?;
        hasher.update(content.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Bytes of a file that are hashed together, by all threads.
const HASHED_AT_ONCE: u64 = 4 << 20;

/// The digest of a file's content. A part is read while the one before is hashed.
fn content(file: &Path) -> std::io::Result<blake3::Hash> {
    let (mut opened, mut hasher) = (File::open(file)?, blake3::Hasher::new());
    let mut read = |part: &mut Vec<u8>| {
        part.clear();
        opened.by_ref().take(HASHED_AT_ONCE).read_to_end(part)
    };
    let (mut part, mut next) = (Vec::new(), Vec::new());
    read(&mut part)?;
    while !part.is_empty() {
        let (_, done) = rayon::join(|| hasher.update_rayon(&part).count(), || read(&mut next));
        done?;
        std::mem::swap(&mut part, &mut next);
    }
    Ok(hasher.finalize())
}

/// Names of the files in a folder, for sentences; at most so many.
pub fn listing(folder: &Path, most: usize) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return "nothing that can be listed".into() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let more = names.len().saturating_sub(most);
    names.truncate(most);
    match (names.is_empty(), more) {
        (true, _) => "no files".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
