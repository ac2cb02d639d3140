//! Records of files, in chunks, so that a file of any size is read in the memory
//! of a small one. Files that end in `.gz` are unpacked on the way.
//!
//! A record that cannot be read is a sentence with its file and line, and the
//! next one is tried; whether that ends the run is for the caller to say.

mod lines;
mod parquet;
mod separated;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use host_ir::task::{Container, Origin, Record};

use crate::files::FileError;

/// Bytes of records and their texts after which a chunk is full.
const CHUNK: usize = 1 << 18;
/// The most bytes of one record.
const LONGEST_RECORD: usize = 64 << 20;

/// Records that follow one another.
#[derive(Debug, Default)]
pub struct Chunk {
    pub records: Vec<Record>,
    /// Sentences about records that cannot be read, with file and line.
    pub unreadable: Vec<String>,
}

/// Fills chunks and hands them on.
struct Chunks<'a, E> {
    path: &'a Path,
    name: Arc<str>,
    chunk: Chunk,
    bytes: usize,
    take: &'a mut dyn FnMut(Chunk) -> Result<(), E>,
}

impl<E: From<FileError>> Chunks<'_, E> {
    /// An error of the file as a whole.
    fn error(&self, sentence: impl ToString) -> E {
        FileError::new(self.path, sentence).into()
    }

    /// An error of the file at a line.
    fn error_at(&self, line: u64, sentence: impl ToString) -> E {
        FileError::new(format!("{}:{line}", self.path.display()), sentence).into()
    }

    /// Adds a record that starts at a line, counted from 1.
    fn add(&mut self, line: u64, text: String, json: Option<serde_json::Value>) -> Result<(), E> {
        self.bytes += size_of::<Record>() + text.len();
        self.chunk.records.push(Record { text, json, origin: Origin { file: self.name.clone(), line } });
        self.full()
    }

    /// Adds what is wrong with a record that cannot be read.
    fn unreadable(&mut self, line: u64, sentence: &str) -> Result<(), E> {
        let sentence = format!("{}:{line}: {sentence}", self.name);
        self.bytes += sentence.len();
        self.chunk.unreadable.push(sentence);
        self.full()
    }

    fn full(&mut self) -> Result<(), E> {
        if self.bytes >= CHUNK { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), E> {
        let chunk = std::mem::take(&mut self.chunk);
        self.bytes = 0;
        match chunk.records.is_empty() && chunk.unreadable.is_empty() {
            true => Ok(()),
            false => (self.take)(chunk),
        }
    }
}

/// Reads a file's records in chunks of about a quarter of a megabyte and hands
/// each chunk to `take`.
///
/// # Errors
/// A file that cannot be read or is not what its container says; what `take` says.
pub fn read<E: From<FileError>>(
    path: &Path,
    container: Container,
    mut take: impl FnMut(Chunk) -> Result<(), E>,
) -> Result<(), E> {
    let name = path.display().to_string().into();
    let mut chunks = Chunks { path, name, chunk: Chunk::default(), bytes: 0, take: &mut take };
    match container {
        Container::Lines | Container::JsonLines | Container::Blocks | Container::Documents => {
            lines::read(container, &mut chunks)?;
        }
        Container::Whole => whole(&mut chunks)?,
        Container::Csv => separated::read(b',', &mut chunks)?,
        Container::Tsv => separated::read(b'\t', &mut chunks)?,
        Container::Parquet => parquet::read(&mut chunks)?,
    }
    chunks.finish()
}

/// The bytes of a file, unpacked where it is packed.
fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = File::open(path)?;
    Ok(match path.extension().is_some_and(|ending| ending == "gz") {
        true => Box::new(MultiGzDecoder::new(io::BufReader::new(file))),
        false => Box::new(file),
    })
}

/// A file that is one record.
fn whole<E: From<FileError>>(chunks: &mut Chunks<'_, E>) -> Result<(), E> {
    let mut bytes = Vec::new();
    let read =
        open(chunks.path).and_then(|file| file.take(LONGEST_RECORD as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|cause| chunks.error(cause))?;
    if bytes.len() > LONGEST_RECORD {
        return Err(chunks.error("the file has more than 64 MB, which is too much for one record"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => chunks.add(1, text.strip_prefix('\u{feff}').unwrap_or(&text).to_string(), None),
        Err(_) => chunks.unreadable(1, "the file is no UTF-8 text; convert it to UTF-8"),
    }
}

#[cfg(test)]
mod tests;
