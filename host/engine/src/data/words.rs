//! Examples of words: windows of tokens over them, and what is known of each
//! word and of spans, kept beside the tokens of a split.

use std::io;

use host_ir::task::{Example, FieldType, FieldValue, Layout};

use crate::batch::Batch;
use crate::data::store::Store;
use crate::text::{Encoded, Tokenizer};

/// The windows of an example's words, and the piece and token of each word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    pub pieces: Vec<Encoded>,
    pub places: Vec<(u32, u32)>,
}

/// Cuts words into windows of at most so many tokens, special ones included,
/// which share so many words. A word stands in the window in which it is
/// further from the edge.
///
/// # Errors
/// No words; a word with more tokens than a window has; a sentence of the
/// tokenizer.
pub fn windows(
    tokenizer: &Tokenizer,
    words: &[String],
    at_most: usize,
    shared: usize,
) -> Result<Windows, String> {
    if words.is_empty() {
        return Err("there are no words".into());
    }
    let lengths: Vec<usize> = words.iter().map(|word| tokenizer.word_ids(word).len()).collect();
    let room = at_most.saturating_sub(tokenizer.special_tokens());
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    loop {
        let (mut end, mut tokens) = (start, 0);
        while end < words.len() && tokens + lengths[end] <= room {
            tokens += lengths[end];
            end += 1;
        }
        if end == start {
            return Err(format!(
                "the word {}, \"{}\", has {} tokens, and a window has room for {room}",
                start + 1,
                words[start],
                lengths[start]
            ));
        }
        ranges.push((start, end));
        if end == words.len() {
            break;
        }
        start = end.saturating_sub(shared).max(start + 1);
    }
    let mut windows = Windows { pieces: Vec::new(), places: vec![(0, 0); words.len()] };
    let mut margins = vec![0; words.len()];
    for (piece, &(start, end)) in ranges.iter().enumerate() {
        let (encoded, firsts) = tokenizer.encode_words(&words[start..end])?;
        // No edge is where the words themselves end.
        for (word, first) in (start..end).zip(firsts) {
            let before = if start == 0 { usize::MAX } else { word - start + 1 };
            let behind = if end == words.len() { usize::MAX } else { end - word };
            let margin = before.min(behind);
            if margin > margins[word] {
                (margins[word], windows.places[word]) = (margin, (piece as u32, first));
            }
        }
        windows.pieces.push(encoded);
    }
    Ok(windows)
}

/// What is known of the words of a split's examples.
#[derive(Debug, Default)]
pub struct Words {
    /// Of each example the number of its words; piece and token of each; the
    /// numbers of each field of numbers; of each field of spans their number and
    /// the spans: all in four bytes.
    records: Store,
    /// The start of each record, in eight bytes.
    index: Store,
    numbers: Vec<String>,
    spans: Vec<String>,
    most: usize,
}

impl Words {
    /// For the fields of a layout that are over words.
    pub fn new(layout: &Layout) -> Words {
        let named = |wanted: fn(&FieldType) -> bool| -> Vec<String> {
            let fields = layout.fields.iter().filter(|field| wanted(&field.kind));
            fields.map(|field| field.name.clone()).collect()
        };
        Words {
            numbers: named(|kind| matches!(kind, FieldType::WordNumbers(_))),
            spans: named(|kind| matches!(kind, FieldType::Spans(_))),
            ..Words::default()
        }
    }

    /// The most words of an example.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Adds an example. Spans that it lacks are none.
    ///
    /// # Errors
    /// Numbers that are not one a word, spans outside of the words, a full disk.
    pub fn add(&mut self, layout: &Layout, example: &Example, places: &[(u32, u32)]) -> Result<(), String> {
        let count = places.len();
        let mut record: Vec<u32> = vec![count as u32];
        record.extend(places.iter().flat_map(|&(piece, token)| [piece, token]));
        let value = |name: &String| example.values.get(layout.field(name)?)?.as_ref();
        for field in &self.numbers {
            match value(field) {
                Some(FieldValue::WordNumbers(numbers)) if numbers.len() == count => record.extend(numbers),
                Some(FieldValue::WordNumbers(numbers)) => {
                    return Err(format!("{count} words have {} numbers \"{field}\"", numbers.len()));
                }
                _ => record.extend(std::iter::repeat_n(0, count)),
            }
        }
        for field in &self.spans {
            let spans = match value(field) {
                Some(FieldValue::Spans(spans)) => spans.as_slice(),
                _ => &[],
            };
            if let Some([first, last, _]) = spans.iter().find(|[_, last, _]| *last as usize >= count) {
                return Err(format!("\"{field}\" has a span from word {first} to {last}, of {count}"));
            }
            record.push(spans.len() as u32);
            record.extend(spans.iter().flatten());
        }
        let bytes: Vec<u8> = record.iter().flat_map(|number| number.to_le_bytes()).collect();
        let start = self.records.bytes().to_le_bytes();
        self.index.append(&start).and_then(|()| self.records.append(&bytes)).map_err(|cause| {
            format!("the words cannot be kept in {}: {cause}", std::env::temp_dir().display())
        })?;
        self.most = self.most.max(count);
        Ok(())
    }

    /// Adds an example's words to a batch, of which it is the last one;
    /// `first_piece` is the first of its sequences.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn pack(&self, example: usize, first_piece: usize, batch: &mut Batch) -> io::Result<()> {
        let mut start = [0; 8];
        if !batch.word_rows.is_empty() {
            return Err(io::Error::other("a batch has the words of one example only"));
        }
        self.index.read(8 * example as u64, &mut start)?;
        let mut next = u64::from_le_bytes(start);
        let mut take = |count: usize| -> io::Result<Vec<u32>> {
            let mut bytes = vec![0; 4 * count];
            self.records.read(next, &mut bytes)?;
            next += bytes.len() as u64;
            Ok(bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
        };
        let count = take(1)?[0] as usize;
        for place in take(2 * count)?.chunks_exact(2) {
            let start = batch.starts[first_piece + place[0] as usize];
            batch.word_rows.push(start + batch.virtual_tokens + place[1]);
        }
        for field in &self.numbers {
            let numbers = take(count)?.into_iter().map(|number| number as i32).collect();
            batch.word_numbers.insert(field.clone(), numbers);
        }
        for field in &self.spans {
            let spans = take(1)?[0] as usize;
            let spans = take(3 * spans)?.as_chunks().0.to_vec();
            batch.spans.insert(field.clone(), spans);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use host_ir::task::{Field, Origin};

    use super::*;

    fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n##c\n";
        fs::write(folder.path().join("vocab.txt"), pieces).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn windows_end_between_words_and_words_stand_where_they_are_furthest_from_an_edge() {
        let tokenizer = tokenizer();
        // Two tokens of each "ab", one of the others.
        let found = windows(&tokenizer, &words("a ab a ab b a ab"), 6, 1).unwrap();
        let ids: Vec<&[u32]> = found.pieces.iter().map(|piece| piece.ids.as_slice()).collect();
        assert_eq!(ids, [&[2, 5, 5, 7, 5, 3][..], &[2, 5, 5, 7, 6, 3], &[2, 6, 5, 5, 7, 3]]);
        // The third word stands at an edge of both windows: the first keeps it.
        assert_eq!(found.places, [(0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 2), (2, 3)]);
        let whole = windows(&tokenizer, &words("a ab"), 512, 3).unwrap();
        assert_eq!((whole.pieces.len(), whole.places), (1, vec![(0, 1), (0, 2)]));
    }

    #[test]
    fn what_no_window_holds_is_an_error() {
        let tokenizer = tokenizer();
        let error = windows(&tokenizer, &words("a abcbc"), 5, 0).unwrap_err();
        assert_eq!(error, "the word 2, \"abcbc\", has 5 tokens, and a window has room for 3");
        assert!(windows(&tokenizer, &[], 5, 0).is_err());
    }

    #[test]
    fn what_is_kept_of_words_comes_back() {
        let field = |name: &str, kind| Field { name: name.into(), kind, gold: false };
        let layout = Layout {
            fields: vec![
                field("words", FieldType::Words),
                field("speaker", FieldType::WordNumbers("words".into())),
                field("mentions", FieldType::Spans("words".into())),
            ],
            ..Layout::default()
        };
        let example = |numbers: &[u32], spans: &[[u32; 3]]| Example {
            origin: Origin { file: "data".into(), line: 1 },
            values: vec![
                None,
                Some(FieldValue::WordNumbers(numbers.to_vec())),
                Some(FieldValue::Spans(spans.to_vec())),
            ],
        };
        let mut kept = Words::new(&layout);
        kept.add(&layout, &example(&[1, 2], &[]), &[(0, 1), (0, 2)]).unwrap();
        let spans = [[0, 1, 7], [2, 2, 7]];
        kept.add(&layout, &example(&[3, 3, 4], &spans), &[(0, 1), (0, 3), (1, 2)]).unwrap();
        assert_eq!(kept.most(), 3);
        // Its pieces are the second and third sequence; each has two virtual rows.
        let mut batch = Batch { starts: vec![0, 5, 12, 20], virtual_tokens: 2, ..Batch::default() };
        kept.pack(1, 1, &mut batch).unwrap();
        assert_eq!(batch.word_rows, [8, 10, 16]);
        assert_eq!(batch.word_numbers["speaker"], [3, 3, 4]);
        assert_eq!(batch.span_numbers("mentions", 2).unwrap(), [0, 8, 0, 0, 8, 0]);
        assert_eq!(batch.span_numbers("mentions", 1).unwrap(), [0, 0, 8], "longer spans are left out");
        let wrong = kept.add(&layout, &example(&[1], &[]), &[(0, 1), (0, 2)]).unwrap_err();
        assert_eq!(wrong, "2 words have 1 numbers \"speaker\"");
        let outside = kept.add(&layout, &example(&[1], &[[0, 1, 0]]), &[(0, 1)]).unwrap_err();
        assert_eq!(outside, "\"mentions\" has a span from word 0 to 1, of 1");
    }
}
