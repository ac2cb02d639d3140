//! Writing files whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, json};

use crate::files::FileError;

/// In what a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::Bf16 => Dtype::BF16,
        }
    }
}

/// Writes a file under another name in the same folder, brings it to the disk
/// and gives it its name, so that a reader finds the old content or the new.
///
/// # Errors
/// A folder or a disk that does not take it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_parts(path, [Ok(content)])
}

/// As [`write_whole`], a part of the content after another.
///
/// # Errors
/// As [`write_whole`]; a part that there is not.
pub fn write_parts<E: From<FileError>>(
    path: &Path,
    parts: impl IntoIterator<Item = Result<impl AsRef<[u8]>, E>>,
) -> Result<(), E> {
    write_with(path, |file| {
        parts.into_iter().try_for_each(|part| {
            file.write_all(part?.as_ref()).map_err(|cause| E::from(FileError::new(path, cause)))
        })
    })
}

/// As [`write_whole`]; `fill` writes the content.
///
/// # Errors
/// As [`write_whole`]; what `fill` says.
pub fn write_with<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let error = |cause: io::Error| E::from(FileError::new(path, cause));
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(error)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = BufWriter::new(fs::File::create(&temporary).map_err(error)?);
        fill(&mut file)?;
        let file = file.into_inner().map_err(|full| error(full.into_error()))?;
        file.sync_all().and_then(|()| fs::rename(&temporary, path)).map_err(error)
    };
    write().inspect_err(|_| {
        fs::remove_file(&temporary).ok();
    })
}

/// Writes tensors (name, shape, elements) as a safetensors file, whole or not
/// at all. The bytes depend on the arguments alone, so that the same training
/// leaves the same file.
///
/// # Errors
/// As [`write_whole`]; a tensor whose shape does not fit or that is there twice.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &BTreeMap<String, String>,
    precision: Precision,
) -> Result<(), FileError> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _, _)| *name);
    // The header is written here: the crate's own has its metadata in the order
    // of a hash map, which is another in each process.
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut end = 0;
    for (name, shape, elements) in &sorted {
        if shape.iter().product::<usize>() != elements.len() {
            let sentence = format!("{name}: {} elements do not fill the shape {shape:?}", elements.len());
            return Err(FileError::new(path, sentence));
        }
        let start = end;
        end += elements.len() * precision.dtype().bitsize() / 8;
        let dtype = precision.dtype().to_string();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        if header.insert((*name).to_string(), entry).is_some() {
            return Err(FileError::new(path, format!("{name}: the tensor is there twice")));
        }
    }
    let mut text = serde_json::to_vec(&header).map_err(|cause| FileError::new(path, cause))?;
    // The elements start at a multiple of 8 bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut content = Vec::with_capacity(8 + text.len() + end);
    content.extend((text.len() as u64).to_le_bytes());
    content.append(&mut text);
    for (_, _, elements) in &sorted {
        encode(elements, precision, &mut content);
    }
    write_whole(path, &content)
}

/// Adds elements, little-endian.
fn encode(elements: &[f32], precision: Precision, content: &mut Vec<u8>) {
    match precision {
        Precision::F32 => content.extend(elements.iter().flat_map(|element| element.to_le_bytes())),
        Precision::F16 => {
            content.extend(elements.iter().flat_map(|&element| half::f16::from_f32(element).to_le_bytes()))
        }
        Precision::Bf16 => {
            content.extend(elements.iter().flat_map(|&element| half::bf16::from_f32(element).to_le_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_depend_on_the_content_alone() {
        let folder = tempfile::tempdir().unwrap();
        let metadata: BTreeMap<String, String> =
            (0..8).map(|number| (format!("key {number}"), number.to_string())).collect();
        let mut contents = Vec::new();
        for number in 0..4 {
            let path = folder.path().join(number.to_string());
            let tensors = [("b", &[2usize][..], &[1.0f32, 2.0][..]), ("a", &[1], &[3.0])];
            write_safetensors(&path, &tensors, &metadata, Precision::F32).unwrap();
            contents.push(fs::read(path).unwrap());
        }
        assert!(contents.iter().all(|content| *content == contents[0]));
        // Any reader of the format takes it.
        let read = safetensors::SafeTensors::deserialize(&contents[0]).unwrap();
        assert_eq!(read.tensor("b").unwrap().data(), [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat());
        let (size, header) = safetensors::SafeTensors::read_metadata(&contents[0]).unwrap();
        assert_eq!((size % 8, header.metadata().as_ref().unwrap()["key 3"].as_str()), (0, "3"));
    }

    #[test]
    fn a_part_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let error = |sentence: &str| FileError::new(&path, sentence);
        write_parts(&path, ["one ", "two"].map(Ok::<_, FileError>)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        let failed = write_parts(&path, [Ok("three"), Err(error("no more"))]);
        assert_eq!(failed, Err(error("no more")));
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_does_not_fit_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let write = |tensors: &[(&str, &[usize], &[f32])]| {
            write_safetensors(&path, tensors, &BTreeMap::new(), Precision::F32).map_err(|e| e.to_string())
        };
        write(&[("a", &[1], &[1.0])]).unwrap();
        let before = fs::read(&path).unwrap();
        let error = write(&[("a", &[3], &[1.0, 2.0])]).unwrap_err();
        assert!(error.contains("a: 2 elements do not fill the shape [3]"), "{error}");
        let error = write(&[("a", &[1], &[1.0]), ("a", &[1], &[2.0])]).unwrap_err();
        assert!(error.contains("a: the tensor is there twice"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
