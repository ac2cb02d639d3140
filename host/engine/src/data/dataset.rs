//! A split as tokens: a record for each example, from which batches are packed.

mod packing;

use std::collections::BTreeMap;
use std::io;

use host_ir::task::{Example, FieldType, Layout};
use rayon::prelude::*;

use crate::data::reading::Reading;
use crate::data::store::Store;
use crate::data::targets::{Targets, check_ends};
use crate::data::words::{Windows, Words};
use crate::models::Decoder;
use crate::text::Encoded;
pub use packing::Noise;

/// Why examples cannot become input of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

impl From<io::Error> for DatasetError {
    fn from(cause: io::Error) -> DatasetError {
        let folder = std::env::temp_dir();
        DatasetError(format!(
            "the data cannot be kept in {}: {cause}; TMPDIR names another folder",
            folder.display()
        ))
    }
}

/// A tokenised split. Its memory does not grow with the number of examples:
/// what is much lies in a temporary file.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Of each example `[pieces]` lengths and `[tokens]` ids in four bytes,
    /// `[tokens]` segments and `[tokens]` marks of special tokens in one, and the
    /// labels in four.
    records: Store,
    /// Of each example the start of its record and the numbers of its tokens and
    /// pieces.
    index: Store,
    examples: usize,
    tokens: u64,
    sequences: usize,
    longest: usize,
    most_tokens: usize,
    most_pieces: usize,
    /// Fields with labels; -1 stands where an example has none.
    labels: Vec<String>,
    /// Examples without a label, by field.
    unlabelled: Vec<usize>,
    /// By field, examples of each label.
    counts: Vec<BTreeMap<i32, u64>>,
    /// What a decoder should make of each example, where there is one.
    pub targets: Option<Targets>,
    /// Of examples of words.
    words: Words,
    /// The decoder that reads each sequence once more, where there is one and it has
    /// nothing else to say.
    pub rereads: Option<Decoder>,
    /// Whether it reads of each sequence no more than what is masked.
    pub of_masked: bool,
    /// The position of a sequence's first row.
    pub first_position: u32,
    /// Sequences whose text was longer than the model reads.
    pub cut: usize,
}

/// Bytes of an entry of the index.
const ENTRY: usize = 16;

/// Where an example's record starts, and what it holds.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    tokens: usize,
    pieces: usize,
}

impl Dataset {
    /// A split without examples.
    pub fn new(layout: &Layout) -> Dataset {
        let labels = layout.fields.iter().filter(|field| matches!(field.kind, FieldType::Label(_)));
        let labels: Vec<String> = labels.map(|field| field.name.clone()).collect();
        let words = Words::new(layout);
        Dataset { words, ..Dataset::of_fields(labels) }
    }

    fn of_fields(labels: Vec<String>) -> Dataset {
        let (unlabelled, counts) = (vec![0; labels.len()], vec![BTreeMap::new(); labels.len()]);
        Dataset { labels, unlabelled, counts, ..Dataset::default() }
    }

    /// Tokenises examples, in parallel, and adds them in their order.
    ///
    /// # Errors
    /// An example without a text that the sequence reads, or with another number
    /// of pieces than its head chooses among; a full disk.
    pub fn add(&mut self, examples: &[Example], reading: &Reading<'_>) -> Result<(), DatasetError> {
        let encode = |example: &Example| reading.read(example);
        let encoded: Vec<Windows> = examples.par_iter().map(encode).collect::<Result<_, _>>()?;
        let places: Vec<usize> = self.labels.iter().filter_map(|name| reading.layout.field(name)).collect();
        for (example, Windows { pieces, places: words }) in examples.iter().zip(encoded) {
            if let Some(decoder) = self.rereads.as_ref().filter(|_| !self.of_masked) {
                check_ends(decoder, example, &pieces)?;
            }
            let labels: Vec<i32> =
                places.iter().map(|&place| example.label(place).map_or(-1, |label| label as i32)).collect();
            self.cut += pieces.iter().filter(|piece| piece.cut).count();
            self.append(&pieces, &labels)?;
            if !words.is_empty() {
                let kept = self.words.add(reading.layout, example, &words);
                kept.map_err(|sentence| DatasetError(format!("{}: {sentence}", example.origin)))?;
            }
        }
        if let Some(targets) = &mut self.targets {
            targets.add(examples, reading.tokenizer)?;
        }
        Ok(())
    }

    fn append(&mut self, pieces: &[Encoded], labels: &[i32]) -> io::Result<()> {
        let lengths = || pieces.iter().map(|piece| piece.ids.len());
        let tokens: usize = lengths().sum();
        let mut record = Vec::with_capacity(4 * pieces.len() + 6 * tokens + 4 * labels.len());
        record.extend(lengths().flat_map(|length| (length as u32).to_le_bytes()));
        record.extend(pieces.iter().flat_map(|piece| &piece.ids).flat_map(|id| id.to_le_bytes()));
        record.extend(pieces.iter().flat_map(|piece| &piece.token_types).map(|&segment| segment as u8));
        record.extend(pieces.iter().flat_map(|piece| &piece.special).map(|&special| u8::from(special)));
        record.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&self.records.bytes().to_le_bytes());
        entry[8..12].copy_from_slice(&(tokens as u32).to_le_bytes());
        entry[12..].copy_from_slice(&(pieces.len() as u32).to_le_bytes());
        self.records.append(&record)?;
        self.index.append(&entry)?;
        self.examples += 1;
        self.tokens += tokens as u64;
        self.sequences += pieces.len();
        self.longest = self.longest.max(lengths().max().unwrap_or(0));
        self.most_tokens = self.most_tokens.max(tokens);
        self.most_pieces = self.most_pieces.max(pieces.len());
        for ((missing, counts), &label) in self.unlabelled.iter_mut().zip(&mut self.counts).zip(labels) {
            match label < 0 {
                true => *missing += 1,
                false => *counts.entry(label).or_default() += 1,
            }
        }
        Ok(())
    }

    /// The most words of an example.
    pub fn most_words(&self) -> usize {
        self.words.most()
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples
    }

    pub fn is_empty(&self) -> bool {
        self.examples == 0
    }

    fn entry(&self, example: usize) -> io::Result<Entry> {
        let mut entry = [0; ENTRY];
        self.index.read((example * ENTRY) as u64, &mut entry)?;
        let [start @ .., a, b, c, d, e, f, g, h] = entry;
        let [tokens, pieces] = [[a, b, c, d], [e, f, g, h]].map(|bytes| u32::from_le_bytes(bytes) as usize);
        Ok(Entry { start: u64::from_le_bytes(start), tokens, pieces })
    }

    /// Tokens of an example, of all its pieces together.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn length(&self, example: usize) -> Result<usize, DatasetError> {
        Ok(self.entry(example)?.tokens)
    }

    /// The sequences of an example, and their rows with so many virtual ones in
    /// front of each, those of the decoder among them.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn size(&self, example: usize, virtual_tokens: usize) -> Result<(usize, usize), DatasetError> {
        let Entry { tokens, pieces, .. } = self.entry(example)?;
        let target = match (&self.targets, &self.rereads) {
            (Some(targets), _) => targets.length(example)?,
            (None, Some(_)) => tokens,
            (None, None) => 0,
        };
        Ok((pieces, tokens + pieces * virtual_tokens + target))
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Rows of the decoder of the example that has the most.
    pub fn most_targets(&self) -> usize {
        match (&self.targets, &self.rereads) {
            (Some(targets), _) => targets.longest(),
            (None, Some(_)) => self.most_tokens,
            (None, None) => 0,
        }
    }

    /// The most pieces of an example, and the most rows with so many virtual ones
    /// in front of each piece.
    pub fn largest(&self, virtual_tokens: usize) -> (usize, usize) {
        (self.most_pieces, self.most_tokens + self.most_pieces * virtual_tokens)
    }

    /// Sequences of all examples.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Examples that have no label of a field; none where it is no label's.
    pub fn unlabelled(&self, field: &str) -> usize {
        self.labels.iter().position(|name| name == field).map_or(0, |place| self.unlabelled[place])
    }

    /// The label that most examples have; the first of equal ones.
    pub fn most_frequent(&self, field: &str) -> Option<u32> {
        let place = self.labels.iter().position(|name| name == field)?;
        let counts = self.counts[place].iter().rev();
        counts.max_by_key(|(_, count)| **count).map(|(&label, _)| label as u32)
    }

    /// An example's pieces and its labels, in the order of the fields.
    fn example(&self, example: usize) -> io::Result<(Vec<Encoded>, Vec<i32>)> {
        let Entry { start, tokens, pieces } = self.entry(example)?;
        let mut record = vec![0; 4 * pieces + 6 * tokens + 4 * self.labels.len()];
        self.records.read(start, &mut record)?;
        let (lengths, rest) = record.split_at(4 * pieces);
        let (mut ids, rest) = rest.split_at(4 * tokens);
        let (mut token_types, rest) = rest.split_at(tokens);
        let (mut special, labels) = rest.split_at(tokens);
        let numbers = |bytes: &[u8]| -> Vec<u32> {
            bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect()
        };
        let taken = |bytes: &mut &[u8], count: usize| {
            let (first, rest) = bytes.split_at(count);
            *bytes = rest;
            first.to_vec()
        };
        let mut encoded = Vec::with_capacity(pieces);
        for length in numbers(lengths).into_iter().map(|length| length as usize) {
            encoded.push(Encoded {
                ids: numbers(&taken(&mut ids, 4 * length)),
                token_types: taken(&mut token_types, length).into_iter().map(u32::from).collect(),
                special: taken(&mut special, length).into_iter().map(|special| special != 0).collect(),
                cut: false,
            });
        }
        Ok((encoded, labels.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()))
    }

    /// The sequences of an example.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn pieces(&self, example: usize) -> Result<Vec<Encoded>, DatasetError> {
        Ok(self.example(example)?.0)
    }

    /// The same examples, each sequence cut to so many tokens or repeated until it
    /// has them, for measuring.
    ///
    /// # Errors
    /// Reading from the temporary file, and writing to another.
    pub fn of_length(&self, length: usize) -> Result<Dataset, DatasetError> {
        let mut dataset = Dataset::of_fields(self.labels.clone());
        dataset.first_position = self.first_position;
        dataset.rereads.clone_from(&self.rereads);
        dataset.of_masked = self.of_masked;
        for example in 0..self.examples {
            let (mut pieces, labels) = self.example(example)?;
            for piece in &mut pieces {
                let mut longer = Encoded::default();
                for token in (0..piece.ids.len()).cycle().take(length) {
                    longer.ids.push(piece.ids[token]);
                    longer.token_types.push(piece.token_types[token]);
                    longer.special.push(piece.special[token]);
                }
                *piece = longer;
            }
            dataset.append(&pieces, &labels)?;
        }
        let targets = self.targets.as_ref().map(|targets| targets.of_length(self.examples, length));
        dataset.targets = targets.transpose()?;
        Ok(dataset)
    }
}

#[cfg(test)]
pub(crate) mod tests;
