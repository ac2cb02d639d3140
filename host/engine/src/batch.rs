//! A batch as the program reads it: sequences without padding, one after
//! another in one list of rows. The sequences of an example, its pieces, follow
//! one another and are never in different batches.

use std::collections::BTreeMap;
use std::ops::Range;

/// Packed sequences. A row is a token, or a virtual one of a prompt; each
/// sequence has its virtual rows first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The first row of each sequence, and the number of rows: [sequences + 1].
    pub starts: Vec<u32>,
    /// The first sequence of each example, and the number of sequences:
    /// [examples + 1]. Empty where every sequence is an example.
    pub example_starts: Vec<u32>,
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
    /// By field, `[sequences]`: the number of the label of the sequence's example.
    /// Only fields that the task's plan reads.
    pub labels: BTreeMap<String, Vec<i32>>,
    /// The same, `[examples]`; empty where every sequence is an example.
    pub example_labels: BTreeMap<String, Vec<i32>>,
    /// Rows that masked-language-model noise has chosen, ascending.
    pub masked_rows: Vec<u32>,
    /// The tokens that stood there.
    pub masked_tokens: Vec<i32>,
    /// What a decoder reads and should say; empty where there is none.
    pub target: Target,
    /// `[words]`: the row of each word's first token, of an example by itself.
    pub word_rows: Vec<u32>,
    /// By field, `[words]`: a number for each word.
    pub word_numbers: BTreeMap<String, Vec<i32>>,
    /// By field: first word, last word and number of each span.
    pub spans: BTreeMap<String, Vec<[u32; 3]>>,
}

/// The decoder's side of a batch: sequences packed as those of the encoder, one
/// for each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The first row of each sequence, and the number of rows: [sequences + 1].
    pub starts: Vec<u32>,
    /// `[rows]`: the token that the decoder reads: the one before the token that
    /// it should say.
    pub ids: Vec<u32>,
    /// `[rows]`: the position of the token.
    pub positions: Vec<u32>,
    /// `[rows]`: the token that should come next.
    pub tokens: Vec<i32>,
    /// Of a masked language model that says the text once more, the rows that should say
    /// what stood at `masked_rows`, one for each.
    pub masked_rows: Vec<u32>,
    /// In generation, where what was said before is found.
    pub recall: Option<Recall>,
}

/// What the rows of a generation's step attend to: each is the newest token of a
/// sequence, and older ones stand in rows of a memory that outlives the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// The first row of each sequence of the encoder, which several of the decoder may
    /// go on from, and the number of rows: [sequences of the encoder + 1].
    pub source_starts: Vec<u32>,
    /// Rows of the memory.
    pub memory_rows: u32,
    /// `[rows]`: the row of the memory in which the token itself will stand.
    pub own: Vec<u32>,
    /// [rows + 1]: where each row's list starts in `rows`.
    pub starts: Vec<u32>,
    /// The rows of the memory that a row sees, in the order of the tokens, its own the
    /// last.
    pub rows: Vec<u32>,
}

impl Target {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// The last row of each sequence.
    pub fn last_rows(&self) -> impl Iterator<Item = u32> {
        self.starts.iter().skip(1).map(|end| end.saturating_sub(1))
    }

    /// The first row that attends to each sequence of the encoder, and the number of
    /// rows.
    pub fn source_starts(&self) -> &[u32] {
        self.recall.as_ref().map_or(&self.starts, |recall| &recall.source_starts)
    }

    /// Forgets all sequences and keeps the memory.
    pub fn clear(&mut self) {
        for column in [&mut self.starts, &mut self.ids, &mut self.positions] {
            column.clear();
        }
        self.tokens.clear();
        self.masked_rows.clear();
    }
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

    /// The virtual rows of all sequences.
    pub fn virtual_rows(&self) -> impl Iterator<Item = u32> {
        let starts = &self.starts[..self.sequences()];
        starts.iter().flat_map(|&start| start..start + self.virtual_tokens)
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        match self.example_starts.len() {
            0 => self.sequences(),
            starts => starts - 1,
        }
    }

    /// Lets the decoder read every sequence once more, its virtual rows left out,
    /// shifted by the start token.
    pub fn reread(&mut self, start: u32, first_position: u32) {
        let target = &mut self.target;
        target.clear();
        target.starts.push(0);
        for range in self.starts.windows(2) {
            let ids = &self.ids[(range[0] + self.virtual_tokens) as usize..range[1] as usize];
            if let Some((_, before)) = ids.split_last() {
                target.ids.push(start);
                target.ids.extend(before);
            }
            target.positions.extend((0..ids.len() as u32).map(|row| first_position + row));
            target.starts.push(target.ids.len() as u32);
        }
    }

    /// Lets the decoder read the tokens that stood at the masked rows, shifted by the start
    /// token, with padding at all other places: transformers' `shift_tokens_right` of
    /// labels that are -100 where nothing was masked.
    pub fn read_masked(&mut self, start: u32, padding: u32, first_position: u32) {
        self.reread(start, first_position);
        let target = &mut self.target;
        target.ids.fill(padding);
        for range in target.starts.windows(2).filter(|range| range[0] < range[1]) {
            target.ids[range[0] as usize] = start;
        }
        for (&row, &token) in self.masked_rows.iter().zip(&self.masked_tokens) {
            let sequence = self.starts.partition_point(|&start| start <= row) - 1;
            let own = row - self.virtual_tokens * (sequence as u32 + 1);
            target.masked_rows.push(own);
            if own + 1 < target.starts[sequence + 1] {
                target.ids[own as usize + 1] = token as u32;
            }
        }
    }

    /// The sequences of an example.
    pub fn pieces(&self, example: usize) -> Range<usize> {
        match self.example_starts.get(example..example + 2) {
            Some(&[start, end]) => start as usize..end as usize,
            _ => example..example + 1,
        }
    }

    /// `[examples]`: the labels of a field.
    pub fn labels_of_examples(&self, field: &str) -> Option<&[i32]> {
        let labels = if self.example_starts.is_empty() { &self.labels } else { &self.example_labels };
        labels.get(field).map(Vec::as_slice)
    }

    /// One more than the numbers of a field's spans, by first word and further
    /// words, `[words, width]`; 0 where there is no span, and nothing of spans that
    /// are longer than `width`. None of a field that the batch lacks.
    pub fn span_numbers(&self, field: &str, width: usize) -> Option<Vec<i32>> {
        let mut numbers = vec![0; self.word_rows.len() * width];
        for &[first, last, number] in self.spans.get(field)? {
            let further = (last - first) as usize;
            if further < width {
                numbers[first as usize * width + further] = number as i32 + 1;
            }
        }
        Some(numbers)
    }
}
