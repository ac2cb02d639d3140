//! A batch as the program reads it: sequences without padding, one after
//! another in one list of rows.

use std::collections::BTreeMap;

/// Packed sequences. A row is a token, or a virtual one of a prompt; each
/// sequence has its virtual rows first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The first row of each sequence, and the number of rows: [sequences + 1].
    pub starts: Vec<u32>,
    /// Virtual rows at the start of each sequence.
    pub virtual_tokens: u32,
    /// `[rows]`: the id of the token; of a virtual row its number, from 0.
    pub ids: Vec<u32>,
    /// `[rows]`: the segment of the token, 0 for virtual rows.
    pub token_types: Vec<u32>,
    /// `[rows]`: the position, virtual rows included, plus the sequence's shift.
    pub positions: Vec<u32>,
    /// `[sequences]`: the sequence's place in its effective batch, by which
    /// dropout is drawn, whatever the micro-batches are.
    pub places: Vec<u32>,
    /// By field, `[sequences]`: the label's number. Only fields that the task's
    /// plan reads.
    pub labels: BTreeMap<String, Vec<i32>>,
    /// Rows that masked-language-model noise has chosen, ascending.
    pub masked_rows: Vec<u32>,
    /// The tokens that stood there.
    pub masked_tokens: Vec<i32>,
}

impl Batch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Rows of the longest sequence, virtual ones included.
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|range| (range[1] - range[0]) as usize).max().unwrap_or(0)
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }
}
