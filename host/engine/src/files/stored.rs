//! Tensors of a safetensors file, read a part at a time: neither the file nor a
//! tensor is in memory twice while a model is loaded.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::files::FileError;
use crate::files::elements::Elements;

/// Bytes that are read at a time; a multiple of every element's width.
const PART: usize = 1 << 20;
/// The longest header that is taken for one.
const LONGEST_HEADER: u64 = 100_000_000;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    file: PathBuf,
    /// The type as the file names it.
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    start: u64,
    end: u64,
}

/// What a file says that it holds.
pub struct Header {
    file: PathBuf,
    /// Bytes of the file.
    length: u64,
    /// The first byte of the tensors.
    first: u64,
    entries: Map<String, Value>,
}

/// The tensors of a file with their names.
///
/// # Errors
/// A file that is no safetensors file, or shorter than its header says.
pub fn tensors(file: &Path) -> Result<Vec<(String, Stored)>, FileError> {
    header(file)?.tensors()
}

/// The header of a file.
///
/// # Errors
/// A file that is no safetensors file.
pub fn header(file: &Path) -> Result<Header, FileError> {
    let error = |sentence: String| FileError::new(file, sentence);
    let mut opened = File::open(file).map_err(|cause| error(cause.to_string()))?;
    let length = opened.metadata().map_err(|cause| error(cause.to_string()))?.len();
    let mut size = [0; 8];
    let header = match opened.read_exact(&mut size) {
        Ok(()) if &size == b"version " => {
            return Err(error(
                "this is a pointer of Git LFS and not the file; `git lfs pull` fetches it".into(),
            ));
        }
        Ok(()) => u64::from_le_bytes(size),
        Err(_) => {
            return Err(error(format!(
                "the file has {length} bytes, too few for a safetensors file; fetch it again"
            )));
        }
    };
    if header > LONGEST_HEADER {
        return Err(error("this is no safetensors file: its header would have more than 100 MB".into()));
    }
    if header + 8 > length {
        return Err(error(format!(
            "the file is cut short within its header, at {length} bytes; fetch it again"
        )));
    }
    let mut text = vec![0; header as usize];
    opened.read_exact(&mut text).map_err(|cause| error(cause.to_string()))?;
    let entries = serde_json::from_slice(&text)
        .map_err(|cause| error(format!("this is no safetensors file: its header is {cause}")))?;
    Ok(Header { file: file.into(), length, first: header + 8, entries })
}

impl Header {
    /// What the file says under a name, beside its tensors.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.entries.get("__metadata__")?.get(name)?.as_str()
    }

    /// The tensors with their names.
    ///
    /// # Errors
    /// An entry that is none; a file that is shorter than they are.
    pub fn tensors(&self) -> Result<Vec<(String, Stored)>, FileError> {
        let error = |sentence: String| FileError::new(&self.file, sentence);
        let mut tensors = Vec::new();
        for (name, value) in self.entries.iter().filter(|(name, _)| *name != "__metadata__") {
            let stored = stored(&self.file, value, self.first);
            let stored =
                stored.ok_or_else(|| error(format!("the header's entry of {name} is none: {value}")))?;
            tensors.push((name.clone(), stored));
        }
        let needed = tensors.iter().map(|(_, stored)| stored.end).max().unwrap_or(0);
        match needed > self.length {
            true => Err(error(format!(
                "the file is cut short: it has {} bytes of {needed}; fetch it again",
                self.length
            ))),
            false => Ok(tensors),
        }
    }
}

/// An entry of a header whose tensors start at `first`.
fn stored(file: &Path, value: &Value, first: u64) -> Option<Stored> {
    let offsets = value.get("data_offsets")?.as_array()?;
    let [start, end] = &offsets[..] else { return None };
    let (start, end) = (start.as_u64()?.checked_add(first)?, end.as_u64()?.checked_add(first)?);
    let sizes = value.get("shape")?.as_array()?.iter();
    Some(Stored {
        file: file.into(),
        dtype: value.get("dtype")?.as_str()?.into(),
        shape: sizes.map(|size| Some(size.as_u64()? as usize)).collect::<Option<_>>()?,
        start,
        end: (end >= start).then_some(end)?,
    })
}

impl Stored {
    /// Its bytes in the file.
    pub fn bytes(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Writes the elements, row by row, to their place, which has the shape's size.
    ///
    /// # Errors
    /// A type that holds no weights; a size that the shape does not have.
    pub fn load(&self, out: &mut [f32]) -> Result<(), String> {
        let elements = match self.dtype.as_str() {
            "F64" => Elements::F64,
            "F32" => Elements::F32,
            "F16" => Elements::F16,
            "BF16" => Elements::Bf16,
            other => return Err(format!("is of type {other}; F32, F16 and BF16 are read")),
        };
        let length = (self.end - self.start) as usize;
        let count = self.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let count = count.filter(|count| count.checked_mul(elements.width()) == Some(length));
        if count != Some(out.len()) {
            return Err(format!("has {length} bytes, which its shape {:?} does not fill", self.shape));
        }
        let file = File::open(&self.file).map_err(|cause| cause.to_string())?;
        let mut part = vec![0; PART.min(length)];
        let mut done = 0;
        while done < length {
            let bytes = &mut part[..PART.min(length - done)];
            let read = file.read_exact_at(bytes, self.start + done as u64);
            read.map_err(|cause| format!("cannot be read: {cause}"))?;
            elements.decode(bytes, &mut out[done / elements.width()..]);
            done += bytes.len();
        }
        Ok(())
    }
}
