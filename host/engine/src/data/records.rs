//! Records of files: lines, JSON objects, blocks of lines, in chunks.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use host_ir::task::{Container, Origin, Record};

use crate::files::FileError;

/// Bytes of text after which a chunk is full.
const CHUNK: usize = 1 << 18;
/// The most bytes of one record.
const LONGEST_RECORD: usize = 64 << 20;

/// Reads a file's records in chunks of about a quarter of a megabyte and hands each chunk
/// to `take`.
///
/// # Errors
/// A file that cannot be read; a line that is no UTF-8 or no JSON object; what
/// `take` says.
pub fn read<E: From<FileError>>(
    path: &Path,
    container: Container,
    mut take: impl FnMut(Vec<Record>) -> Result<(), E>,
) -> Result<(), E> {
    let error = |sentence: String| E::from(FileError::new(path, sentence));
    let file = File::open(path).map_err(|cause| error(cause.to_string()))?;
    let mut lines = Lines { reader: BufReader::with_capacity(1 << 16, file), path, number: 0 };
    let name: Arc<str> = path.display().to_string().into();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let mut block: Option<(u64, String)> = None;
    loop {
        let line = lines.next()?;
        let ended = line.is_none();
        let (number, text) = line.unwrap_or_default();
        let blank = text.trim().is_empty();
        let whole = match container {
            Container::Blocks if !blank => {
                let (_, block) = block.get_or_insert_with(|| (number, String::new()));
                block.push_str(&text);
                block.push('\n');
                None
            }
            Container::Blocks => block.take(),
            Container::Lines | Container::JsonLines => (!blank).then_some((number, text)),
        };
        if let Some((line, text)) = whole {
            bytes += text.len();
            let json = match container {
                Container::JsonLines => Some(object(&text).map_err(|(column, sentence)| {
                    E::from(FileError::new(format!("{}:{line}:{column}", path.display()), sentence))
                })?),
                _ => None,
            };
            chunk.push(Record { text, json, origin: Origin { file: name.clone(), line } });
        }
        if (ended && !chunk.is_empty()) || bytes >= CHUNK {
            take(std::mem::take(&mut chunk))?;
            bytes = 0;
        }
        if ended {
            return Ok(());
        }
    }
}

/// The object of a line, or the column where it ends to be one, and why.
fn object(text: &str) -> Result<serde_json::Value, (usize, String)> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err((1, "a JSON object is wanted on each line".into())),
        Err(error) => {
            // The line that the parser counts is always the first.
            let place = format!(" at line {} column {}", error.line(), error.column());
            Err((error.column(), format!("no JSON object: {}", error.to_string().replace(&place, ""))))
        }
    }
}

/// Lines of a file with their numbers, from 1, without their ends.
struct Lines<'a> {
    reader: BufReader<File>,
    path: &'a Path,
    number: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> Result<Option<(u64, String)>, FileError> {
        let mut bytes = Vec::new();
        let place = |number: u64, sentence: String| {
            FileError::new(format!("{}:{number}", self.path.display()), sentence)
        };
        let mut limited = std::io::Read::take(&mut self.reader, LONGEST_RECORD as u64 + 1);
        let read = limited.read_until(b'\n', &mut bytes);
        read.map_err(|cause| place(self.number + 1, cause.to_string()))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if bytes.len() > LONGEST_RECORD {
            return Err(place(self.number, "the line has more than 64 MB".into()));
        }
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some((self.number, text))),
            Err(error) => {
                let byte = error.utf8_error().valid_up_to() + 1;
                Err(place(
                    self.number,
                    format!("the line is no UTF-8 text from byte {byte} on; convert the file to UTF-8"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(content: &[u8], container: Container) -> Result<Vec<(u64, String)>, FileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, content).unwrap();
        let mut records = Vec::new();
        read(&path, container, |chunk| {
            records.extend(chunk.into_iter().map(|record| (record.origin.line, record.text)));
            Ok::<(), FileError>(())
        })?;
        Ok(records)
    }

    fn expect(records: &[(u64, &str)]) -> Vec<(u64, String)> {
        records.iter().map(|(line, text)| (*line, text.to_string())).collect()
    }

    #[test]
    fn lines_know_their_numbers() {
        let records = read_all("\u{feff}1 a\r\n\n2 č".as_bytes(), Container::Lines).unwrap();
        assert_eq!(records, expect(&[(1, "1 a"), (3, "2 č")]));
    }

    #[test]
    fn blocks_end_at_empty_lines() {
        let records = read_all(b"a\nb\n\n\nc\n", Container::Blocks).unwrap();
        assert_eq!(records, expect(&[(1, "a\nb\n"), (5, "c\n")]));
    }

    #[test]
    fn bad_lines_are_named() {
        let error = read_all(b"good\nb\xffd\n", Container::Lines).unwrap_err().to_string();
        assert!(
            error.ends_with("data:2: the line is no UTF-8 text from byte 2 on; convert the file to UTF-8"),
            "{error}"
        );
        let error = read_all(b"{}\n{\n", Container::JsonLines).unwrap_err().to_string();
        assert!(error.contains("data:2:1: no JSON object: EOF while parsing an object"), "{error}");
        assert!(!error.contains("at line"), "{error}");
        assert!(read_all(b"[]\n", Container::JsonLines).is_err());
    }
}
