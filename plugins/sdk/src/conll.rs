//! The columns of CoNLL-2012: documents with one word a line and the brackets
//! of coreference in the last column, read as the official scorer reads them.
//!
//! The number of columns is free. They are separated by tabs where a line has
//! one, and by spaces elsewhere; empty ones at the end of a line do not count,
//! so that a word without coreference may have `-`, `_` or nothing. A cell may
//! have several brackets: `(3|(5)` opens a mention of 3 and is one of 5.

use std::collections::HashMap;

use crate::metrics::coreference::{Entity, Span};

/// What starts and ends a document.
pub const BEGIN: &str = "#begin document";
pub const END: &str = "#end document";

/// The column of the words.
const WORD: usize = 3;
/// The column of the speakers.
const SPEAKER: usize = 9;

/// A line of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub columns: Vec<String>,
    /// The sentence that it stands in, from 0.
    pub sentence: u32,
}

/// A document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// What stands after `#begin document`: `(NAME); part 000`.
    pub name: String,
    pub rows: Vec<Row>,
    /// In the order in which the file names them first; mentions in the order
    /// in which they end.
    pub entities: Vec<Entity>,
}

impl Document {
    /// The words.
    ///
    /// # Errors
    /// A line without a fourth column.
    pub fn words(&self) -> Result<Vec<&str>, String> {
        let mut words = Vec::with_capacity(self.rows.len());
        for (place, row) in self.rows.iter().enumerate() {
            let missing = || {
                format!(
                    "word {place} of the document {} has {} columns, and the word should be the fourth",
                    self.name,
                    row.columns.len()
                )
            };
            words.push(row.columns.get(WORD).ok_or_else(missing)?.as_str());
        }
        Ok(words)
    }

    /// Who says each word; empty where the columns have no speaker.
    pub fn speakers<'a>(&'a self) -> Vec<&'a str> {
        let has_speakers = self.width() > SPEAKER + 1;
        let known = |speaker: &&String| has_speakers && !["-", "_", "*"].contains(&speaker.as_str());
        let column = |row: &'a Row| row.columns.get(SPEAKER).filter(known).map_or("", String::as_str);
        self.rows.iter().map(column).collect()
    }

    /// The number of columns that most lines have.
    fn width(&self) -> usize {
        let mut counts: HashMap<usize, usize> = HashMap::new();
        self.rows.iter().for_each(|row| *counts.entry(row.columns.len()).or_default() += 1);
        counts.into_iter().max_by_key(|&(width, count)| (count, width)).map_or(0, |(width, _)| width)
    }

    /// The document with other entities in its last column. Entities are
    /// numbered from 0; a span that two of them have is written for both.
    pub fn written(&self, entities: &[Entity]) -> String {
        let mut opened: Vec<Vec<(u32, usize)>> = vec![Vec::new(); self.rows.len()];
        let mut single: Vec<Vec<usize>> = vec![Vec::new(); self.rows.len()];
        let mut closed: Vec<Vec<(u32, usize)>> = vec![Vec::new(); self.rows.len()];
        for (number, entity) in entities.iter().enumerate() {
            for &(first, last) in entity {
                match first == last {
                    true => single[first as usize].push(number),
                    false => {
                        opened[first as usize].push((last, number));
                        closed[last as usize].push((first, number));
                    }
                }
            }
        }
        let width = self.width().max(1);
        let mut text = format!("{BEGIN} {}\n", self.name);
        for (place, row) in self.rows.iter().enumerate() {
            if place > 0 && row.sentence != self.rows[place - 1].sentence {
                text.push('\n');
            }
            // The longest mention opens first, and the shortest closes first.
            opened[place].sort_by_key(|&(last, number)| (std::cmp::Reverse(last), number));
            closed[place].sort_by_key(|&(first, number)| (std::cmp::Reverse(first), number));
            let mut cell: Vec<String> =
                opened[place].iter().map(|(_, number)| format!("({number}")).collect();
            cell.extend(single[place].iter().map(|number| format!("({number})")));
            cell.extend(closed[place].iter().map(|(_, number)| format!("{number})")));
            let kept = row.columns.len().min(width) - 1;
            row.columns[..kept].iter().for_each(|column| {
                text.push_str(column);
                text.push('\t');
            });
            text.push_str(if cell.is_empty() { "-" } else { "" });
            text.push_str(&cell.join("|"));
            text.push('\n');
        }
        text.push_str(END);
        text.push('\n');
        text
    }
}

/// All documents of a text, as the scorer reads them. What stands outside of documents is
/// passed over.
///
/// # Errors
/// Brackets that do not match, a cell that cannot be read, a document that
/// begins inside another or twice: with the line, counted from 1.
pub fn documents(text: &str) -> Result<Vec<Document>, String> {
    read(text, false)
}

/// As [`documents`], of a text to learn from: the scorer overlooks what stands between
/// brackets, and here it is an error.
///
/// # Errors
/// As [`documents`]; a cell whose brackets are not parted by one bar each, such as `(0)|`,
/// `(0)||(1)` or `(0)(1)`.
pub fn well_formed_documents(text: &str) -> Result<Vec<Document>, String> {
    read(text, true)
}

fn read(text: &str, strict: bool) -> Result<Vec<Document>, String> {
    let mut documents: Vec<Document> = Vec::new();
    let mut open: Option<Reading> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(name) =
            line.strip_prefix('#').and_then(|rest| rest.trim_start().strip_prefix("begin document"))
        {
            if let Some(reading) = &open {
                return Err(format!(
                    "line {number}: a document begins before {} has ended",
                    reading.document.name
                ));
            }
            let name = name.trim().to_string();
            if documents.iter().any(|document| document.name == name) {
                return Err(format!("line {number}: the document {name} is there twice"));
            }
            open = Some(Reading::new(name, strict));
        } else if line.starts_with('#') && line.contains("end document") {
            if let Some(reading) = open.take() {
                documents.push(reading.finished().map_err(|sentence| format!("line {number}: {sentence}"))?);
            }
        } else if let Some(reading) = &mut open {
            reading.line(line).map_err(|sentence| format!("line {number}: {sentence}"))?;
        }
    }
    match open {
        // Some files have no mark at their end.
        Some(reading) => documents.push(reading.finished()?),
        None if documents.is_empty() => return Err(format!("there is no \"{BEGIN}\" in it")),
        None => {}
    }
    Ok(documents)
}

/// A document that is being read.
struct Reading {
    document: Document,
    sentence: u32,
    /// The place of each entity by its number in the file.
    places: HashMap<String, usize>,
    /// First words of mentions that are open, by entity.
    open: Vec<Vec<u32>>,
    /// Whether cells have to be lists of brackets with a bar between two.
    strict: bool,
}

impl Reading {
    fn new(name: String, strict: bool) -> Reading {
        let document = Document { name, ..Document::default() };
        Reading { document, sentence: 0, places: HashMap::new(), open: Vec::new(), strict }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.trim().is_empty() {
            // Several empty lines end one sentence.
            if self.document.rows.last().is_some_and(|row| row.sentence == self.sentence) {
                self.sentence += 1;
            }
            return Ok(());
        }
        let columns: Vec<String> = match line.contains('\t') {
            true => line.split('\t').map(str::to_string).collect(),
            false => line.split_whitespace().map(str::to_string).collect(),
        };
        let cell = columns.iter().rev().find(|column| !column.is_empty()).cloned().unwrap_or_default();
        let word = self.document.rows.len() as u32;
        self.document.rows.push(Row { columns, sentence: self.sentence });
        self.brackets(cell.trim(), word)
    }

    /// The brackets of a cell: mentions of one word, then those that begin,
    /// then those that end, each read from left to right.
    fn brackets(&mut self, cell: &str, word: u32) -> Result<(), String> {
        if self.strict && cell.contains(['(', ')']) && !cell.split('|').all(is_bracket) {
            return Err(format!(
                "\"{cell}\" is no list of brackets with one bar between two, such as (3|(5)|4)"
            ));
        }
        let mut rest = cell.to_string();
        while let Some(number) = taken(&mut rest, true, true) {
            let place = self.place(number);
            self.document.entities[place].push((word, word));
        }
        while let Some(number) = taken(&mut rest, true, false) {
            let place = self.place(number);
            self.open[place].push(word);
        }
        while let Some(number) = taken(&mut rest, false, true) {
            let sentence = format!("a mention of the entity {number} ends that has not begun");
            let place = self.place(number);
            let first = self.open[place].pop().ok_or(sentence)?;
            self.document.entities[place].push((first, word));
        }
        match rest.contains(['(', ')']) {
            true => Err(format!("\"{cell}\" is no list of brackets with numbers, such as (3|(5)|4)")),
            false => Ok(()),
        }
    }

    fn place(&mut self, number: String) -> usize {
        let next = self.document.entities.len();
        let place = *self.places.entry(number).or_insert(next);
        if place == next {
            self.document.entities.push(Entity::new());
            self.open.push(Vec::new());
        }
        place
    }

    fn finished(self) -> Result<Document, String> {
        let never_closed = self.places.iter().find(|(_, place)| !self.open[**place].is_empty());
        match never_closed {
            Some((number, _)) => {
                Err(format!("a mention of the entity {number} of {} has no end", self.document.name))
            }
            None => Ok(self.document),
        }
    }
}

/// Whether a part of a cell is `(3`, `3)` or `(3)`.
fn is_bracket(part: &str) -> bool {
    let (opened, closed) = (part.strip_prefix('('), part.strip_suffix(')'));
    let number = part.strip_prefix('(').unwrap_or(part);
    let number = number.strip_suffix(')').unwrap_or(number);
    (opened.is_some() || closed.is_some())
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Takes the first number with a bracket before it, behind it or on both sides
/// out of a cell.
fn taken(cell: &mut String, before: bool, behind: bool) -> Option<String> {
    let bytes = cell.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_digit() {
            start += 1;
            continue;
        }
        let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let has_before = start > 0 && bytes[start - 1] == b'(';
        let has_behind = bytes.get(end) == Some(&b')');
        if (has_before || !before) && (has_behind || !behind) {
            let number = cell[start..end].to_string();
            cell.replace_range(start - usize::from(before)..end + usize::from(behind), "");
            return Some(number);
        }
        start = end;
    }
    None
}

/// Groups mentions by the number of their entity, in the order in which the
/// numbers appear.
pub fn entities(mentions: impl IntoIterator<Item = (Span, u32)>) -> Vec<Entity> {
    let (mut places, mut entities) = (HashMap::new(), Vec::<Entity>::new());
    for (span, number) in mentions {
        let place = *places.entry(number).or_insert(entities.len());
        if place == entities.len() {
            entities.push(Entity::new());
        }
        entities[place].push(span);
    }
    entities
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
#begin document (a); part 000
a 0 0 One DT * - - - Ann * (0
a 0 1 two CD * - - - Ann * (1)|0)

a 0 0 three CD * - - - - * (1|(1|(2)
a 0 1 four CD * - - - Bob * 1)
a 0 2 five CD * - - - Bob * 1)
#end document
";

    fn spans(document: &Document) -> Vec<Entity> {
        document.entities.clone()
    }

    #[test]
    fn brackets_are_read_as_the_scorer_reads_them() {
        let documents = documents(TEXT).unwrap();
        assert_eq!(documents.len(), 1);
        let document = &documents[0];
        assert_eq!(document.name, "(a); part 000");
        // What opens last closes first.
        assert_eq!(spans(document), [vec![(0, 1)], vec![(1, 1), (2, 3), (2, 4)], vec![(2, 2)]]);
        assert_eq!(document.words().unwrap(), ["One", "two", "three", "four", "five"]);
        assert_eq!(document.speakers(), ["Ann", "Ann", "", "Bob", "Bob"]);
        assert_eq!(document.rows.iter().map(|row| row.sentence).collect::<Vec<_>>(), [0, 0, 1, 1, 1]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let document = documents(TEXT).unwrap().remove(0);
        let entities = [vec![(2, 4), (0, 1)], vec![(1, 1), (2, 3), (0, 1)], vec![(4, 4), (0, 4)]];
        let text = document.written(&entities);
        let again = documents(&text).unwrap().remove(0);
        let sorted = |entities: &[Entity]| {
            let mut sorted: Vec<Entity> = entities.to_vec();
            sorted.iter_mut().for_each(|entity| entity.sort_unstable());
            sorted.sort();
            sorted
        };
        assert_eq!(sorted(&again.entities), sorted(&entities));
        assert_eq!(again.words(), document.words());
        assert_eq!(again.speakers(), document.speakers());
        assert_eq!(text.lines().filter(|line| line.is_empty()).count(), 1);
    }

    #[test]
    fn columns_may_be_of_any_number_and_empty_at_the_end() {
        let text =
            "junk\n#begin document (x); part 0\nx\t0\t0\tA\t_\t\nx\t0\t1\tb\t_\t(0)\nx\t0\t2\tc\t-\t\t\n";
        let document = documents(text).unwrap().remove(0);
        assert_eq!(spans(&document), [vec![(1, 1)]]);
        assert_eq!(document.speakers(), ["", "", ""]);
        let written = document.written(&[vec![(0, 1)]]);
        assert!(written.contains("x\t0\t0\tA\t_\t(0\nx\t0\t1\tb\t_\t0)\nx\t0\t2\tc\t-\t-\n"), "{written}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let error = |cells: &[&str]| {
            let rows: String = cells.iter().map(|cell| format!("a\t0\t0\tw\t{cell}\n")).collect();
            documents(&format!("#begin document a\n{rows}#end document\n")).unwrap_err()
        };
        assert_eq!(error(&["1)"]), "line 2: a mention of the entity 1 ends that has not begun");
        assert_eq!(error(&["(7", "-"]), "line 4: a mention of the entity 7 of a has no end");
        assert!(error(&["(x)"]).starts_with("line 2: \"(x)\" is no list of brackets"));
        assert!(documents("nothing").unwrap_err().contains("#begin document"));
        let twice = "#begin document a\n#end document\n#begin document a\n";
        assert_eq!(documents(twice).unwrap_err(), "line 3: the document a is there twice");
        let inside = "#begin document a\n#begin document b\n";
        assert_eq!(documents(inside).unwrap_err(), "line 2: a document begins before a has ended");
    }

    /// The scorer overlooks bars that part nothing; who learns from a file should not.
    #[test]
    fn bars_that_part_nothing_are_wrong_in_what_is_learned_from() {
        let text = |cell: &str| format!("#begin document a\na\t0\t0\tw\t{cell}\n#end document\n");
        for (cell, entities) in [("(0)|", 1), ("|(0)", 1), ("(0)||(1)", 2), ("(0)(1)", 2), ("x(0)", 1)] {
            assert_eq!(documents(&text(cell)).unwrap()[0].entities.len(), entities, "{cell}");
            let error = well_formed_documents(&text(cell)).unwrap_err();
            assert!(
                error.starts_with(&format!("line 2: \"{cell}\" is no list of brackets with one bar")),
                "{error}"
            );
        }
        for cell in ["(0)", "(0)|(1)", "-", "_", "|", "w"] {
            assert_eq!(well_formed_documents(&text(cell)), documents(&text(cell)), "{cell}");
        }
    }

    #[test]
    fn real_files_are_read() {
        let Some(folder) = std::env::var_os("HOST_TEST_DATA") else {
            println!("skipped: HOST_TEST_DATA is not set");
            return;
        };
        let folder = std::path::Path::new(&folder).join("coref");
        let read = |name: &str| documents(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap();
        let train = std::fs::read_to_string(folder.join("ontogum_free_train.conll")).unwrap();
        assert_eq!(well_formed_documents(&train).unwrap().len(), 84);
        let (train, dev) = (read("ontogum_free_train.conll"), read("ontogum_free_dev.conll"));
        assert_eq!((train.len(), dev.len()), (84, 12));
        let litbank = read("litbank_1023_bleak_house_brat.conll");
        assert_eq!(litbank.len(), 1);
        assert!(litbank[0].entities.len() > 10);
        for document in train.iter().chain(&dev).chain(&litbank) {
            let again = documents(&document.written(&document.entities)).unwrap().remove(0);
            let sorted = |document: &Document| {
                let mut sorted: Vec<Entity> = document.entities.clone();
                sorted.iter_mut().for_each(|entity| entity.sort_unstable());
                sorted.sort();
                sorted
            };
            assert_eq!(sorted(&again), sorted(document));
        }
    }
}
