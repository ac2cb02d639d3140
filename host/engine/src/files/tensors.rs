//! Named tensors in safetensors files or in memory, read as 32-bit floats.
//!
//! Tensors are read at their place in the file when they are asked for, so a
//! checkpoint is never held twice in memory, and a file that shrinks while it
//! is open is an error and not a crash.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::FileError;
use crate::nearest::nearest;

/// Buffers that older checkpoints keep and no model reads.
const BUFFERS: [&str; 2] = ["position_ids", "token_type_ids"];

/// Bytes that are widened at a time.
const CHUNK: usize = 1 << 20;

enum Source {
    File { path: PathBuf, file: File },
    Memory { origin: String, bytes: Cow<'static, [u8]> },
}

impl Source {
    fn origin(&self) -> String {
        match self {
            Source::File { path, .. } => path.display().to_string(),
            Source::Memory { origin, .. } => origin.clone(),
        }
    }

    fn size(&self) -> Result<u64, FileError> {
        match self {
            Source::File { path, file } => Ok(file.metadata().map_err(FileError::unreadable(path))?.len()),
            Source::Memory { bytes, .. } => Ok(bytes.len() as u64),
        }
    }

    /// Fills `buffer` from the byte `start` on; the range must be inside.
    fn read(&self, start: u64, buffer: &mut [u8]) -> Result<(), FileError> {
        match self {
            Source::File { path, file } => {
                file.read_exact_at(buffer, start).map_err(FileError::unreadable(path))
            }
            Source::Memory { bytes, .. } => {
                let start = start as usize;
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
        }
    }
}

struct Entry {
    source: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The first byte in the source.
    start: u64,
}

/// Tensors by name.
#[derive(Default)]
pub struct Tensors {
    sources: Vec<Source>,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl Tensors {
    /// The tensors of one file, or of all shards of a checkpoint.
    pub fn open(paths: &[PathBuf]) -> Result<Tensors, FileError> {
        let mut tensors = Tensors::default();
        for path in paths {
            let file = File::open(path).map_err(FileError::unreadable(path))?;
            tensors.add(Source::File { path: path.clone(), file })?;
        }
        Ok(tensors)
    }

    /// The tensors of a safetensors file held in memory; errors call it `origin`.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>, origin: &str) -> Result<Tensors, FileError> {
        let mut tensors = Tensors::default();
        tensors.add(Source::Memory { origin: origin.to_owned(), bytes: bytes.into() })?;
        Ok(tensors)
    }

    /// The files that the tensors are in; none for those in memory.
    pub fn files(&self) -> Vec<&Path> {
        self.sources
            .iter()
            .filter_map(|source| match source {
                Source::File { path, .. } => Some(path.as_path()),
                Source::Memory { .. } => None,
            })
            .collect()
    }

    /// The strings that the file's author put beside the tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of the tensors, sorted, without buffers of positions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of exactly this name, or it is a buffer.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name) || is_buffer(name)
    }

    /// The shape of a tensor by its stored name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.shape)
    }

    /// The stored name of a tensor that transformers calls `wanted`: the same;
    /// with or without the name of the base model (`prefix`, e.g. "bert")
    /// before it; or with the older `gamma` and `beta` for `weight` and `bias`.
    pub fn locate(&self, wanted: &str, prefix: &str) -> Option<&str> {
        let short = wanted.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        let other = match short {
            Some(short) => short.to_owned(),
            None => format!("{prefix}.{wanted}"),
        };
        let bases = [wanted.to_owned(), other];
        let older = bases.iter().filter_map(|name| older_name(name));
        let mut candidates = bases.iter().cloned().chain(older);
        let (name, _) = candidates.find_map(|name| self.entries.get_key_value(&name))?;
        Some(name)
    }

    /// Names of the tensors that none of the `wanted` names stands for.
    pub fn extra<'a>(&self, wanted: impl IntoIterator<Item = &'a str>, prefix: &str) -> Vec<String> {
        let used: BTreeSet<&str> = wanted.into_iter().filter_map(|name| self.locate(name, prefix)).collect();
        self.names().filter(|name| !used.contains(name)).map(str::to_owned).collect()
    }

    /// The tensor that transformers calls `wanted`, in row-major order; see
    /// [`Tensors::locate`]. Another shape than `shape` is an error.
    pub fn load(&self, wanted: &str, prefix: &str, shape: &[usize]) -> Result<Vec<f32>, FileError> {
        let mut values = vec![0.0; shape.iter().product()];
        self.load_into(wanted, prefix, shape, &mut values)?;
        Ok(values)
    }

    /// As [`Tensors::load`], into `values`, which has the shape's number of elements.
    pub fn load_into(
        &self,
        wanted: &str,
        prefix: &str,
        shape: &[usize],
        values: &mut [f32],
    ) -> Result<(), FileError> {
        let Some(name) = self.locate(wanted, prefix) else {
            return Err(FileError::MissingTensor {
                origin: self.origin(),
                name: wanted.to_owned(),
                nearest: nearest(wanted, self.names()).map(str::to_owned),
            });
        };
        let entry = &self.entries[name];
        let source = &self.sources[entry.source];
        if entry.shape != shape || values.len() != shape.iter().product::<usize>() {
            return Err(FileError::Shape {
                origin: source.origin(),
                name: name.to_owned(),
                wanted: shape.to_vec(),
                has: entry.shape.clone(),
            });
        }
        match entry.dtype {
            Dtype::F32 => widen(source, entry.start, values, f32::from_le_bytes),
            Dtype::F16 => widen(source, entry.start, values, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => widen(source, entry.start, values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            dtype => Err(FileError::Dtype {
                origin: source.origin(),
                name: name.to_owned(),
                dtype: dtype.to_string(),
            }),
        }
    }

    fn origin(&self) -> String {
        self.sources.first().map_or(String::new(), Source::origin)
    }

    /// Reads the header of a source: the size of a JSON text in 8 bytes, the
    /// text, then the tensors.
    fn add(&mut self, source: Source) -> Result<(), FileError> {
        let origin = source.origin();
        let has = source.size()?;
        let invalid =
            |reason: &str| FileError::NotSafetensors { origin: origin.clone(), reason: reason.to_owned() };
        if has < 8 {
            return Err(FileError::Truncated { origin, wanted: 8, has });
        }
        let mut size = [0; 8];
        source.read(0, &mut size)?;
        if &size == b"version " {
            return Err(invalid("it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"));
        }
        let size = u64::from_le_bytes(size);
        // The format's own limit; more means that this is another format.
        if size > 100_000_000 {
            return Err(invalid("its first 8 bytes are not the size of a header"));
        }
        if has < 8 + size {
            return Err(FileError::Truncated { origin, wanted: 8 + size, has });
        }
        let mut header = vec![0; size as usize];
        source.read(8, &mut header)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| invalid(&format!("its header is wrong: {error}")))?;
        let wanted = 8 + size + header.data_len() as u64;
        if has < wanted {
            return Err(FileError::Truncated { origin, wanted, has });
        }
        if has > wanted {
            return Err(invalid(&format!("it has {} bytes more than its header promises", has - wanted)));
        }
        self.metadata.extend(header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        for (name, tensor) in header.tensors() {
            if is_buffer(&name) {
                continue;
            }
            let entry = Entry {
                source: self.sources.len(),
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                start: 8 + size + tensor.data_offsets.0 as u64,
            };
            self.entries.insert(name, entry);
        }
        self.sources.push(source);
        Ok(())
    }
}

fn is_buffer(name: &str) -> bool {
    BUFFERS.iter().any(|buffer| name.rsplit('.').next() == Some(buffer))
}

/// The name that checkpoints converted from TensorFlow have for a norm's
/// weight or bias.
fn older_name(name: &str) -> Option<String> {
    let (module, last) = name.rsplit_once('.')?;
    match last {
        "weight" => Some(format!("{module}.gamma")),
        "bias" => Some(format!("{module}.beta")),
        _ => None,
    }
}

/// Reads little-endian numbers of `WIDTH` bytes from `start` on.
fn widen<const WIDTH: usize>(
    source: &Source,
    start: u64,
    values: &mut [f32],
    number: impl Fn([u8; WIDTH]) -> f32,
) -> Result<(), FileError> {
    let mut buffer = vec![0; CHUNK.min(values.len() * WIDTH)];
    let mut start = start;
    for part in values.chunks_mut(CHUNK / WIDTH) {
        let bytes = &mut buffer[..part.len() * WIDTH];
        source.read(start, bytes)?;
        let (numbers, _) = bytes.as_chunks::<WIDTH>();
        for (value, &bytes) in part.iter_mut().zip(numbers) {
            *value = number(bytes);
        }
        start += (part.len() * WIDTH) as u64;
    }
    Ok(())
}
