//! Writing files whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};

use crate::files::FileError;

/// In what a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

/// Writes a file under another name in the same folder, brings it to the disk
/// and gives it its name, so that a reader finds the old content or the new.
///
/// # Errors
/// A folder or a disk that does not take it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let error = |cause: std::io::Error| FileError::new(path, cause);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(error)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|cause| {
        fs::remove_file(&temporary).ok();
        error(cause)
    })
}

/// Writes tensors (name, shape, elements) as a safetensors file, whole or not
/// at all.
///
/// # Errors
/// As [`write_whole`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[(&str, &[usize], &[f32])],
    metadata: &BTreeMap<String, String>,
    precision: Precision,
) -> Result<(), FileError> {
    let stored: Vec<(Dtype, Vec<u8>)> =
        tensors.iter().map(|(_, _, elements)| encoded(elements, precision)).collect();
    let mut views = Vec::new();
    for ((name, shape, _), (dtype, bytes)) in tensors.iter().zip(&stored) {
        let view = TensorView::new(*dtype, shape.to_vec(), bytes);
        views.push((*name, view.map_err(|cause| FileError::new(path, format!("{name}: {cause}")))?));
    }
    let metadata = metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let content = serialize(views, Some(metadata)).map_err(|cause| FileError::new(path, cause))?;
    write_whole(path, &content)
}

fn encoded(elements: &[f32], precision: Precision) -> (Dtype, Vec<u8>) {
    match precision {
        Precision::F32 => (Dtype::F32, elements.iter().flat_map(|element| element.to_le_bytes()).collect()),
        Precision::F16 => (
            Dtype::F16,
            elements.iter().flat_map(|&element| half::f16::from_f32(element).to_le_bytes()).collect(),
        ),
        Precision::Bf16 => (
            Dtype::BF16,
            elements.iter().flat_map(|&element| half::bf16::from_f32(element).to_le_bytes()).collect(),
        ),
    }
}
