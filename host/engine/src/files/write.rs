//! Writing safetensors so that a reader sees the old file or the new one,
//! whatever happens in between.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use half::f16;
use serde_json::{Map, Value, json};

use super::FileError;

/// The type in which floats are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    F32,
    F16,
}

impl StoredType {
    fn name(self) -> &'static str {
        match self {
            StoredType::F32 => "F32",
            StoredType::F16 => "F16",
        }
    }

    fn width(self) -> usize {
        match self {
            StoredType::F32 => 4,
            StoredType::F16 => 2,
        }
    }
}

/// Writes named tensors (name, shape, elements in row-major order). The bytes
/// depend on the arguments alone. A file in the same folder takes the bytes,
/// reaches the disk and is then renamed to `path`.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &BTreeMap<String, String>,
    stored: StoredType,
) -> Result<(), FileError> {
    let unwritable = |source| FileError::Unwritable { path: path.to_path_buf(), source };
    replace(path, |output| {
        output.write_all(&header(tensors, metadata, stored)?)?;
        for (_, _, values) in tensors {
            for &value in *values {
                match stored {
                    StoredType::F32 => output.write_all(&value.to_le_bytes())?,
                    StoredType::F16 => output.write_all(&f16::from_f32(value).to_le_bytes())?,
                }
            }
        }
        Ok(())
    })
    .map_err(unwritable)
}

/// The size of the JSON text in 8 bytes, and the text, filled up with spaces
/// so that the tensors start at a multiple of 8 bytes.
fn header(
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &BTreeMap<String, String>,
    stored: StoredType,
) -> io::Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for (name, shape, values) in tensors {
        let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        if shape.iter().product::<usize>() != values.len() {
            let count = values.len();
            return Err(wrong(format!("the tensor {name} of shape {shape:?} has {count} elements")));
        }
        let end = start + values.len() * stored.width();
        let entry = json!({ "dtype": stored.name(), "shape": shape, "data_offsets": [start, end] });
        if entries.insert((*name).to_owned(), entry).is_some() {
            return Err(wrong(format!("the tensor {name} is there twice")));
        }
        start = end;
    }
    let mut text = serde_json::to_vec(&Value::Object(entries))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    Ok(header)
}

/// Gives `path` the content that `write` writes, all of it or nothing.
fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".writing-")
        // As any new file: what the user's mask leaves.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    let mut output = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    write(&mut output)?;
    output.flush()?;
    drop(output);
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    // The name is on the disk when the folder is.
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Tensors;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let values: Vec<f32> = (0..6).map(|n| n as f32 / 3.0).collect();
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let shape: &[usize] = &[2, 3];
        for stored in [StoredType::F32, StoredType::F16] {
            let tensors = [("b.weight", shape, &values[..]), ("a", &[][..], &[0.5][..])];
            write_safetensors(&path, &tensors, &metadata, stored).unwrap();
            let read = Tensors::open(std::slice::from_ref(&path)).unwrap();
            let bound = if stored == StoredType::F32 { 0.0 } else { 1e-3 };
            for (read, wanted) in read.load("b.weight", "", shape).unwrap().iter().zip(&values) {
                assert!((read - wanted).abs() <= bound);
            }
            assert_eq!(read.load("a", "", &[]).unwrap(), [0.5]);
            assert_eq!(read.metadata(), &metadata);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let write = |shape: &[usize], twice: bool| {
            let tensors = [("a", shape, &[1.0f32, 2.0][..]), ("a", shape, &[1.0, 2.0][..])];
            write_safetensors(&path, &tensors[..1 + usize::from(twice)], &BTreeMap::new(), StoredType::F32)
        };
        write(&[2], false).unwrap();
        let before = std::fs::read(&path).unwrap();
        let message = write(&[3], false).unwrap_err().to_string();
        assert!(message.contains("the tensor a of shape [3] has 2 elements"), "{message}");
        let message = write(&[2], true).unwrap_err().to_string();
        assert!(message.contains("the tensor a is there twice"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
