//! Containers of lines: a record a line, a JSON object a line, blocks of lines up
//! to an empty one, documents of lines between two marks.

use std::io::{BufRead, BufReader, Read};

use host_ir::task::Container;

use crate::data::records::{Chunks, LONGEST_RECORD, open};
use crate::files::FileError;

/// The lines before and after a document, as shared tasks on coreference write them.
const DOCUMENT: (&str, &str) = ("#begin document", "#end document");

pub fn read<E: From<FileError>>(container: Container, chunks: &mut Chunks<'_, E>) -> Result<(), E> {
    let file = open(chunks.path).map_err(|cause| chunks.error(cause))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut number = 0;
    // A record of several lines that is not complete, and its first line.
    let mut open: Option<(u64, String)> = None;
    while let Some(bytes) = line(&mut reader, number + 1, chunks)? {
        number += 1;
        let text = match text(bytes, number) {
            Ok(text) => text,
            Err(sentence) => {
                chunks.unreadable(number, &sentence)?;
                continue;
            }
        };
        let blank = text.trim().is_empty();
        match container {
            Container::Blocks if blank => finish(&mut open, chunks)?,
            Container::Blocks => append(&mut open, number, &text, chunks)?,
            Container::Documents => {
                if text.starts_with(DOCUMENT.0) {
                    if let Some((line, _)) = open.take() {
                        let sentence = format!("the document has no line {} before the next one", DOCUMENT.1);
                        chunks.unreadable(line, &sentence)?;
                    }
                    append(&mut open, number, &text, chunks)?;
                } else if open.is_some() {
                    append(&mut open, number, &text, chunks)?;
                    if text.starts_with(DOCUMENT.1) {
                        finish(&mut open, chunks)?;
                    }
                } else if !blank {
                    let sentence = format!("the line stands outside a document; {} is wanted", DOCUMENT.0);
                    chunks.unreadable(number, &sentence)?;
                }
            }
            Container::JsonLines if !blank => match object(&text) {
                Ok(json) => chunks.add(number, text, Some(json))?,
                Err((column, sentence)) => {
                    chunks.unreadable(number, &format!("column {column}: {sentence}"))?;
                }
            },
            _ if !blank => chunks.add(number, text, None)?,
            _ => {}
        }
    }
    match (container, open.take()) {
        (Container::Documents, Some((line, _))) => {
            chunks.unreadable(line, &format!("the document has no line {}", DOCUMENT.1))
        }
        (_, Some((line, text))) => chunks.add(line, text, None),
        _ => Ok(()),
    }
}

/// Adds a line to the record that is open, or opens one.
fn append<E: From<FileError>>(
    open: &mut Option<(u64, String)>,
    number: u64,
    text: &str,
    chunks: &Chunks<'_, E>,
) -> Result<(), E> {
    let (first, record) = open.get_or_insert_with(|| (number, String::new()));
    record.push_str(text);
    record.push('\n');
    match record.len() > LONGEST_RECORD {
        true => Err(chunks.error_at(*first, "the record has more than 64 MB")),
        false => Ok(()),
    }
}

fn finish<E: From<FileError>>(open: &mut Option<(u64, String)>, chunks: &mut Chunks<'_, E>) -> Result<(), E> {
    match open.take() {
        Some((line, text)) => chunks.add(line, text, None),
        None => Ok(()),
    }
}

/// The bytes of the next line with this number, without its end.
fn line<E: From<FileError>>(
    reader: &mut BufReader<Box<dyn Read>>,
    number: u64,
    chunks: &Chunks<'_, E>,
) -> Result<Option<Vec<u8>>, E> {
    let mut bytes = Vec::new();
    let mut limited = Read::take(reader, LONGEST_RECORD as u64 + 1);
    limited.read_until(b'\n', &mut bytes).map_err(|cause| chunks.error_at(number, cause))?;
    if bytes.len() > LONGEST_RECORD {
        return Err(chunks.error_at(number, "the line has more than 64 MB"));
    }
    let read = !bytes.is_empty();
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(read.then_some(bytes))
}

/// The text of a line with this number.
fn text(mut bytes: Vec<u8>, number: u64) -> Result<String, String> {
    if number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let byte = error.utf8_error().valid_up_to() + 1;
        format!("the line is no UTF-8 text from byte {byte} on; convert the file to UTF-8")
    })
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
