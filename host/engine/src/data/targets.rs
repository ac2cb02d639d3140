//! The targets of a split: what a decoder should make of each example, as tokens; and
//! the check of what a decoder reads where it should make nothing.

use std::io;

use host_ir::task::Example;
use rayon::prelude::*;

use crate::batch::Target;
use crate::data::dataset::DatasetError;
use crate::data::store::Store;
use crate::models::Decoder;
use crate::text::{Encoded, Tokenizer};

/// Bytes of an entry of the index.
const ENTRY: usize = 12;

/// Tokenised targets, in the order of the examples. Their memory does not grow with
/// their number.
#[derive(Debug)]
pub struct Targets {
    /// The place of the field that holds the text.
    field: usize,
    /// The most tokens, special ones included.
    at_most: usize,
    decoder: Decoder,
    /// `[tokens]` ids in four bytes.
    tokens: Store,
    /// Of each target where its tokens start, and their number.
    index: Store,
    longest: usize,
    /// Targets that were longer.
    pub cut: usize,
    /// Examples without a target.
    pub missing: usize,
}

impl Targets {
    /// No targets yet: those of a field, cut to so many tokens.
    pub fn new(field: usize, at_most: usize, decoder: &Decoder) -> Targets {
        Targets {
            field,
            at_most,
            decoder: decoder.clone(),
            tokens: Store::default(),
            index: Store::default(),
            longest: 0,
            cut: 0,
            missing: 0,
        }
    }

    /// Tokenises the targets of examples, in parallel, and adds them in their order.
    ///
    /// # Errors
    /// A sentence of the tokenizer; a full disk.
    pub fn add(&mut self, examples: &[Example], tokenizer: &Tokenizer) -> Result<(), DatasetError> {
        let encode = |example: &Example| -> Result<Option<Encoded>, DatasetError> {
            let Some(text) = example.text(self.field) else { return Ok(None) };
            let encoded = tokenizer.encode(&[text], self.at_most);
            encoded.map(Some).map_err(|sentence| DatasetError(format!("{}: {sentence}", example.origin)))
        };
        let encoded: Vec<Option<Encoded>> = examples.par_iter().map(encode).collect::<Result<_, _>>()?;
        for target in encoded {
            self.missing += usize::from(target.is_none());
            let target = target.unwrap_or_default();
            self.cut += usize::from(target.cut);
            self.append(&target.ids)?;
        }
        Ok(())
    }

    fn append(&mut self, ids: &[u32]) -> io::Result<()> {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&self.tokens.bytes().to_le_bytes());
        entry[8..].copy_from_slice(&(ids.len() as u32).to_le_bytes());
        self.index.append(&entry)?;
        self.longest = self.longest.max(ids.len());
        self.tokens.append(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
    }

    fn entry(&self, example: usize) -> io::Result<(u64, usize)> {
        let mut entry = [0; ENTRY];
        self.index.read((example * ENTRY) as u64, &mut entry)?;
        let [start @ .., a, b, c, d] = entry;
        Ok((u64::from_le_bytes(start), u32::from_le_bytes([a, b, c, d]) as usize))
    }

    /// Number of tokens of an example's target.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn length(&self, example: usize) -> Result<usize, DatasetError> {
        Ok(self.entry(example)?.1)
    }

    /// Tokens of the longest target.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The same targets, each cut to so many tokens or repeated until it has them, for
    /// measuring.
    ///
    /// # Errors
    /// Reading from the temporary file, and writing to another.
    pub fn of_length(&self, examples: usize, length: usize) -> Result<Targets, DatasetError> {
        let mut targets = Targets::new(self.field, self.at_most, &self.decoder);
        for example in 0..examples {
            let ids = self.ids(example)?;
            let ids: Vec<u32> = ids.iter().copied().cycle().take(length).collect();
            targets.append(&ids)?;
        }
        Ok(targets)
    }

    /// Tokens of an example's target.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn ids(&self, example: usize) -> io::Result<Vec<u32>> {
        let (start, count) = self.entry(example)?;
        let mut bytes = vec![0; 4 * count];
        self.tokens.read(start, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
    }

    /// Packs the targets of examples: the decoder reads the start token and all tokens
    /// but the last, and should say all of them.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn pack(
        &self,
        examples: impl Iterator<Item = usize>,
        target: &mut Target,
    ) -> Result<(), DatasetError> {
        target.clear();
        target.starts.push(0);
        for example in examples {
            let ids = self.ids(example)?;
            if let Some((_, before)) = ids.split_last() {
                target.ids.push(self.decoder.start);
                target.ids.extend(before);
            }
            target.positions.extend((0..ids.len() as u32).map(|row| self.decoder.first_position + row));
            target.tokens.extend(ids.iter().map(|&id| id as i32));
            target.starts.push(target.ids.len() as u32);
        }
        Ok(())
    }
}

/// A decoder that reads a sequence once more sums it up at its end.
///
/// # Errors
/// A sequence without the end.
pub(super) fn check_ends(
    decoder: &Decoder,
    example: &Example,
    pieces: &[Encoded],
) -> Result<(), DatasetError> {
    let ends = |piece: &Encoded| piece.ids.last().is_some_and(|id| decoder.ends.contains(id));
    match pieces.iter().all(ends) {
        true => Ok(()),
        false => Err(DatasetError(format!(
            "{}: the tokens do not end with the model's end of a text (eos_token_id {:?}), whose state the head \
             reads; the tokenizer should add it",
            example.origin, decoder.ends
        ))),
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{FieldValue, Origin};

    use super::*;
    use crate::data::dataset::tests::tokenizer;

    #[test]
    fn targets_are_shifted_by_the_start_token() {
        let texts = [Some("w0 w1"), None, Some("w2 w3 w4 w5")];
        let example = |text: &Option<&str>| Example {
            origin: Origin { file: "data".into(), line: 1 },
            values: vec![text.map(|text| FieldValue::Text(text.into()))],
        };
        let examples: Vec<Example> = texts.iter().map(example).collect();
        let decoder = Decoder { start: 9, first_position: 2, ..Decoder::default() };
        let mut targets = Targets::new(0, 5, &decoder);
        targets.add(&examples, &tokenizer()).unwrap();
        assert_eq!((targets.longest(), targets.cut, targets.missing), (5, 1, 1));
        assert_eq!((targets.length(0), targets.length(1)), (Ok(4), Ok(0)));
        let mut target = Target::default();
        // The memory of an earlier batch is used again.
        targets.pack([0].into_iter(), &mut target).unwrap();
        targets.pack([2, 1, 0].into_iter(), &mut target).unwrap();
        // [CLS] and [SEP] are 2 and 3, the words start at 5.
        assert_eq!(target.starts, [0, 5, 5, 9]);
        assert_eq!(target.ids, [9, 2, 7, 8, 9, 9, 2, 5, 6]);
        assert_eq!(target.tokens, [2, 7, 8, 9, 3, 2, 5, 6, 3]);
        assert_eq!(target.positions, [2, 3, 4, 5, 6, 2, 3, 4, 5]);
        let even = targets.of_length(3, 2).unwrap();
        even.pack([0, 2].into_iter(), &mut target).unwrap();
        assert_eq!((&target.starts[..], &target.ids[..]), (&[0, 2, 4][..], &[9, 2, 9, 2][..]));
    }
}
