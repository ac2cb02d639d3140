//! How an example becomes tokens: the sequences, its pieces, that the model reads
//! of it.

use host_ir::task::{Example, FieldValue, Layout, Sequence, Side};

use crate::data::dataset::DatasetError;
use crate::data::words::{Windows, windows};
use crate::text::{Encoded, Tokenizer, TruncationDirection};

/// How examples become tokens.
pub struct Reading<'a> {
    pub sequence: &'a Sequence,
    pub layout: &'a Layout,
    pub tokenizer: &'a Tokenizer,
    /// The most tokens, special ones included and virtual ones not.
    pub at_most: usize,
    /// Segments that the model tells apart; further ones are its first.
    pub segments: usize,
}

impl Reading<'_> {
    /// The pieces of an example, and of an example of words the place of each.
    ///
    /// # Errors
    /// As [`Self::pieces`]; words that fit no window.
    pub fn read(&self, example: &Example) -> Result<Windows, DatasetError> {
        let Some((field, shared)) = &self.sequence.words else {
            return Ok(Windows { pieces: self.pieces(example)?, places: Vec::new() });
        };
        let error = |sentence: String| DatasetError(format!("{}: {sentence}", example.origin));
        match self.layout.field(field).and_then(|field| example.values.get(field)?.as_ref()) {
            Some(FieldValue::Words(words)) => {
                windows(self.tokenizer, words, self.at_most, *shared as usize).map_err(error)
            }
            _ => Err(error(format!("the example has no words \"{field}\""))),
        }
    }

    /// The pieces of an example: one, or one for each text of a list or window.
    ///
    /// # Errors
    /// A text that is not there; another number of pieces than the head chooses
    /// among; a sentence of the tokenizer.
    pub fn pieces(&self, example: &Example) -> Result<Vec<Encoded>, DatasetError> {
        let error = |sentence: String| DatasetError(format!("{}: {sentence}", example.origin));
        let mut segments: Vec<&[String]> = Vec::with_capacity(self.sequence.texts.len());
        for (place, name) in self.sequence.texts.iter().enumerate() {
            let field = self.layout.field(name);
            let found = match self.sequence.each == Some(place) {
                true => field.and_then(|field| example.texts(field)),
                false => field.and_then(|field| example.text_value(field)).map(std::slice::from_ref),
            };
            segments.push(found.ok_or_else(|| error(format!("the example has no text \"{name}\"")))?);
        }
        let pieces = self.sequence.each.map_or(1, |place| segments[place].len());
        match self.sequence.choices {
            Some(wanted) if wanted as usize != pieces => {
                return Err(error(format!("the example has {pieces} choices, and {wanted} are wanted")));
            }
            _ if pieces == 0 => return Err(error("the list of texts is empty".into())),
            _ => {}
        }
        let mut encoded: Vec<Encoded> = Vec::with_capacity(pieces);
        for piece in 0..pieces {
            let mut texts: Vec<&str> = Vec::with_capacity(segments.len());
            for (place, segment) in segments.iter().enumerate() {
                texts.push(&segment[if self.sequence.each == Some(place) { piece } else { 0 }]);
            }
            encoded.extend(self.encode(&texts).map_err(error)?);
        }
        Ok(encoded)
    }

    /// The sequence of these texts, or its windows.
    fn encode(&self, texts: &[&str]) -> Result<Vec<Encoded>, String> {
        let mut pieces = match self.sequence.cut {
            None => vec![self.tokenizer.encode(texts, self.at_most)?],
            Some((text, side)) => {
                let side = match side {
                    Side::Start => TruncationDirection::Left,
                    Side::End => TruncationDirection::Right,
                };
                let stride = self.sequence.windows.map(|stride| stride as usize);
                self.tokenizer.encode_cutting(texts, self.at_most, (text, side), stride)?
            }
        };
        let known = |segment: u32| if (segment as usize) < self.segments { segment } else { 0 };
        let segments = pieces.iter_mut().flat_map(|piece| &mut piece.token_types);
        segments.for_each(|segment| *segment = known(*segment));
        Ok(pieces)
    }
}
