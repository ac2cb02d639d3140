//! Digests of contents, by which finished work is recognised.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::FileError;

/// The digest (BLAKE3, in hexadecimal) of files and of all files under
/// folders: of their names and contents, not of where they stand or when they
/// were written, nor of the order in which they are given.
pub fn digest_files(paths: &[PathBuf]) -> Result<String, FileError> {
    let mut parts = Vec::new();
    for path in paths {
        let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        if path.is_dir() {
            collect(path, "", &mut parts)?;
        } else {
            parts.push((name, content(path)?));
        }
    }
    parts.sort_by(|a, b| (&a.0, a.1.as_bytes()).cmp(&(&b.0, b.1.as_bytes())));
    let mut whole = blake3::Hasher::new();
    for (name, content) in parts {
        // The length keeps the borders of names apart.
        whole.update(&(name.len() as u64).to_le_bytes());
        whole.update(name.as_bytes());
        whole.update(content.as_bytes());
    }
    Ok(whole.finalize().to_hex().to_string())
}

/// Adds the files under a folder, by their paths below it. Names with a point
/// before them belong to tools, not to the content.
fn collect(folder: &Path, below: &str, parts: &mut Vec<(String, blake3::Hash)>) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::unreadable(folder))? {
        let path = entry.map_err(FileError::unreadable(folder))?.path();
        let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{below}{name}");
        if path.is_dir() {
            collect(&path, &format!("{name}/"), parts)?;
        } else {
            parts.push((name, content(&path)?));
        }
    }
    Ok(())
}

fn content(path: &Path) -> Result<blake3::Hash, FileError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(FileError::unreadable(path))?;
    hasher.update_reader(file).map_err(FileError::unreadable(path))?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_follows_names_and_contents_alone() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let digest = |folder: &Path| digest_files(&[folder.to_path_buf()]).unwrap();
        for folder in &folders {
            fs::create_dir(folder.path().join("sub")).unwrap();
            fs::write(folder.path().join("sub/a"), "one").unwrap();
            fs::write(folder.path().join("b"), "two").unwrap();
            fs::write(folder.path().join(".cache"), folder.path().display().to_string()).unwrap();
        }
        let [first, second] = [folders[0].path(), folders[1].path()];
        assert_eq!(digest(first), digest(second));
        let both = [first.join("b"), first.join("sub/a")];
        let turned = [first.join("sub/a"), first.join("b")];
        assert_eq!(digest_files(&both).unwrap(), digest_files(&turned).unwrap());
        fs::write(second.join("sub/a"), "One").unwrap();
        assert_ne!(digest(first), digest(second));
        fs::write(second.join("sub/a"), "one").unwrap();
        fs::rename(second.join("b"), second.join("c")).unwrap();
        assert_ne!(digest(first), digest(second));
        let message = digest_files(&[first.join("none")]).unwrap_err().to_string();
        assert!(message.contains("none cannot be read"), "{message}");
    }
}
