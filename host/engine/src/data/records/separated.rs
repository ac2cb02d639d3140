//! Tables as text: CSV (RFC 4180) and tab-separated values. The first line names
//! the columns; a record is an object of strings, an empty cell is null.

use std::io::{self, BufRead, BufReader, Read};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use crate::data::records::{Chunks, LONGEST_RECORD, open};
use crate::files::FileError;

/// Rows of a table, one at a time in memory that is used again.
struct Rows {
    parser: Reader,
    input: BufReader<Box<dyn Read>>,
    /// The cells of the row, one after another, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    cells: usize,
    /// The line in which the row starts.
    line: u64,
}

impl Rows {
    /// Quotation marks are read in CSV alone.
    fn new(input: Box<dyn Read>, separator: u8) -> Rows {
        Rows {
            parser: ReaderBuilder::new().delimiter(separator).quoting(separator == b',').build(),
            input: BufReader::with_capacity(1 << 16, input),
            bytes: vec![0; 1 << 10],
            ends: vec![0; 1 << 5],
            cells: 0,
            line: 1,
        }
    }

    /// Goes to the next row that is not empty; whether there is one.
    fn next(&mut self) -> io::Result<bool> {
        let (mut filled, mut ended_line) = (0, false);
        self.cells = 0;
        loop {
            let input = self.input.fill_buf()?;
            let (output, ends) = (&mut self.bytes[filled..], &mut self.ends[self.cells..]);
            let (result, read, written, ended) = self.parser.read_record(input, output, ends);
            if read > 0 {
                ended_line = input[read - 1] == b'\n';
            }
            // What was read at the end of the file ends no line.
            ended_line &= !input.is_empty();
            self.input.consume(read);
            filled += written;
            self.cells += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                // A quotation mark that is missing puts the rest of the file into
                // one cell.
                ReadRecordResult::OutputFull if filled >= LONGEST_RECORD => {
                    return Err(io::Error::other(
                        "the row has more than 64 MB; is a quotation mark missing?",
                    ));
                }
                ReadRecordResult::OutputFull => self.bytes.resize(2 * self.bytes.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => {
                    let breaks = self.bytes[..filled].iter().filter(|&&byte| byte == b'\n').count();
                    self.line = self.parser.line() - breaks as u64 - u64::from(ended_line);
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends[..self.cells]).map(|(start, &end)| &self.bytes[start..end])
    }
}

/// Reads a table with this separator.
pub fn read<E: From<FileError>>(separator: u8, chunks: &mut Chunks<'_, E>) -> Result<(), E> {
    let file = open(chunks.path).map_err(|cause| chunks.error(cause))?;
    let mut rows = Rows::new(file, separator);
    if !rows.next().map_err(|cause| chunks.error(cause))? {
        return Ok(());
    }
    let columns: Vec<String> = rows
        .cells()
        .map(|name| String::from_utf8(name.to_vec()).map(|name| name.trim().to_string()))
        .collect::<Result<_, _>>()
        .map_err(|_| chunks.error_at(rows.line, "the line with the columns' names is no UTF-8 text"))?;
    if let Some((_, name)) = columns.iter().enumerate().find(|(place, name)| columns[..*place].contains(name))
    {
        return Err(chunks.error_at(rows.line, format!("two columns are called \"{name}\"")));
    }
    while rows.next().map_err(|cause| chunks.error_at(rows.line, cause))? {
        if rows.cells != columns.len() {
            let sentence = format!(
                "there are {} cells, and the first line names {} columns ({})",
                rows.cells,
                columns.len(),
                columns.join(", ")
            );
            chunks.unreadable(rows.line, &sentence)?;
            continue;
        }
        match object(&rows, &columns) {
            Ok(object) => {
                let object = Value::Object(object);
                chunks.add(rows.line, object.to_string(), Some(object))?;
            }
            Err(column) => chunks.unreadable(
                rows.line,
                &format!("the cell of the column \"{column}\" is no UTF-8 text; convert the file to UTF-8"),
            )?,
        }
    }
    Ok(())
}

/// A row as an object, or the column whose cell is no text.
fn object<'a>(row: &Rows, columns: &'a [String]) -> Result<Map<String, Value>, &'a str> {
    let mut object = Map::new();
    for (name, cell) in columns.iter().zip(row.cells()) {
        let text = std::str::from_utf8(cell).map_err(|_| name.as_str())?;
        let value = if text.is_empty() { Value::Null } else { Value::String(text.to_string()) };
        object.insert(name.clone(), value);
    }
    Ok(object)
}
