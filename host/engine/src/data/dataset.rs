//! A split as tokens: a record for each example, from which batches are packed.

use std::io;

use host_ir::random::Stream;
use host_ir::task::{Example, FieldType, Layout, Sequence};
use rayon::prelude::*;

use crate::batch::Batch;
use crate::data::store::Store;
use crate::data::targets::Targets;
use crate::text::{Encoded, Tokenizer};

/// Why examples cannot become input of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

impl From<io::Error> for DatasetError {
    fn from(cause: io::Error) -> DatasetError {
        let folder = std::env::temp_dir();
        DatasetError(format!(
            "the tokenised data cannot be kept in {}: {cause}; TMPDIR names another folder",
            folder.display()
        ))
    }
}

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

/// A tokenised split. Its memory does not grow with the number of examples:
/// what is much lies in a temporary file.
#[derive(Debug, Default)]
pub struct Dataset {
    /// Of each example `[tokens]` ids in four bytes, `[tokens]` segments and
    /// `[tokens]` marks of special tokens in one, and the labels in four.
    records: Store,
    /// Of each example the start of its record and the number of its tokens.
    index: Store,
    examples: usize,
    tokens: u64,
    longest: usize,
    /// Fields with labels; -1 stands where an example has none.
    labels: Vec<String>,
    /// Examples without a label, by field.
    unlabelled: Vec<usize>,
    /// What a decoder should make of each example, where there is one.
    pub targets: Option<Targets>,
    /// The position of a sequence's first row.
    pub first_position: u32,
    /// Examples whose text was longer than the model reads.
    pub cut: usize,
}

/// Bytes of an entry of the index.
const ENTRY: usize = 12;

/// Masked-language-model noise (Devlin et al. 2019, section 3.1) and shifted
/// positions; a function of seed, epoch and example alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    pub seed: u64,
    pub epoch: u64,
    /// Share of the tokens that are chosen.
    pub probability: f64,
    /// The most places by which half of the sequences are shifted.
    pub shift: u32,
    /// Positions that the model has.
    pub positions: u32,
    pub mask_id: u32,
    pub vocabulary: u32,
}

impl Dataset {
    /// A split without examples.
    pub fn new(layout: &Layout) -> Dataset {
        let labels = layout.fields.iter().filter(|field| matches!(field.kind, FieldType::Label(_)));
        let labels: Vec<String> = labels.map(|field| field.name.clone()).collect();
        Dataset { unlabelled: vec![0; labels.len()], labels, ..Dataset::default() }
    }

    /// Tokenises examples, in parallel, and adds them in their order.
    ///
    /// # Errors
    /// An example without a text that the sequence reads; a full disk.
    pub fn add(&mut self, examples: &[Example], reading: &Reading<'_>) -> Result<(), DatasetError> {
        let Reading { sequence, layout, tokenizer, at_most, segments } = *reading;
        let fields: Vec<usize> = sequence.texts.iter().filter_map(|name| layout.field(name)).collect();
        let encode = |example: &Example| -> Result<Encoded, DatasetError> {
            let mut texts = Vec::with_capacity(fields.len());
            for (&field, name) in fields.iter().zip(&sequence.texts) {
                let missing =
                    || DatasetError(format!("{}: the example has no text \"{name}\"", example.origin));
                texts.push(example.text(field).ok_or_else(missing)?);
            }
            tokenizer
                .encode(&texts, at_most)
                .map_err(|sentence| DatasetError(format!("{}: {sentence}", example.origin)))
        };
        let encoded: Vec<Encoded> = examples.par_iter().map(encode).collect::<Result<_, _>>()?;
        let places: Vec<usize> = self.labels.iter().filter_map(|name| layout.field(name)).collect();
        for (example, mut tokens) in examples.iter().zip(encoded) {
            let known = |segment: u32| if (segment as usize) < segments { segment } else { 0 };
            tokens.token_types.iter_mut().for_each(|segment| *segment = known(*segment));
            let labels: Vec<i32> =
                places.iter().map(|&place| example.label(place).map_or(-1, |label| label as i32)).collect();
            self.cut += usize::from(tokens.cut);
            self.append(&tokens, &labels)?;
        }
        if let Some(targets) = &mut self.targets {
            targets.add(examples, tokenizer)?;
        }
        Ok(())
    }

    fn append(&mut self, tokens: &Encoded, labels: &[i32]) -> io::Result<()> {
        let count = tokens.ids.len();
        let mut record = Vec::with_capacity(6 * count + 4 * labels.len());
        record.extend(tokens.ids.iter().flat_map(|id| id.to_le_bytes()));
        record.extend(tokens.token_types.iter().map(|&segment| segment as u8));
        record.extend(tokens.special.iter().map(|&special| u8::from(special)));
        record.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&self.records.len().to_le_bytes());
        entry[8..].copy_from_slice(&(count as u32).to_le_bytes());
        self.records.append(&record)?;
        self.index.append(&entry)?;
        self.examples += 1;
        self.tokens += count as u64;
        self.longest = self.longest.max(count);
        for (missing, &label) in self.unlabelled.iter_mut().zip(labels) {
            *missing += usize::from(label < 0);
        }
        Ok(())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples
    }

    pub fn is_empty(&self) -> bool {
        self.examples == 0
    }

    /// Where an example's record starts, and its tokens.
    fn entry(&self, example: usize) -> io::Result<(u64, usize)> {
        let mut entry = [0; ENTRY];
        self.index.read((example * ENTRY) as u64, &mut entry)?;
        let [start @ .., a, b, c, d] = entry;
        Ok((u64::from_le_bytes(start), u32::from_le_bytes([a, b, c, d]) as usize))
    }

    /// Tokens of an example.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn length(&self, example: usize) -> Result<usize, DatasetError> {
        Ok(self.entry(example)?.1)
    }

    /// Tokens of an example and of its target together.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn length_with_target(&self, example: usize) -> Result<usize, DatasetError> {
        let target = self.targets.as_ref().map_or(Ok(0), |targets| targets.length(example))?;
        Ok(self.length(example)? + target)
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Examples that have no label of a field; none where it is no label's.
    pub fn unlabelled(&self, field: &str) -> usize {
        self.labels.iter().position(|name| name == field).map_or(0, |place| self.unlabelled[place])
    }

    /// An example's tokens and its labels, in the order of the fields.
    fn example(&self, example: usize) -> io::Result<(Encoded, Vec<i32>)> {
        let (start, count) = self.entry(example)?;
        let mut record = vec![0; 6 * count + 4 * self.labels.len()];
        self.records.read(start, &mut record)?;
        let (ids, rest) = record.split_at(4 * count);
        let (token_types, rest) = rest.split_at(count);
        let (special, labels) = rest.split_at(count);
        let encoded = Encoded {
            ids: ids.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect(),
            token_types: token_types.iter().map(|&segment| u32::from(segment)).collect(),
            special: special.iter().map(|&special| special != 0).collect(),
            cut: false,
        };
        Ok((encoded, labels.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()))
    }

    /// The same examples, each cut to so many tokens or repeated until it has
    /// them, for measuring.
    ///
    /// # Errors
    /// Reading from the temporary file, and writing to another.
    pub fn of_length(&self, length: usize) -> Result<Dataset, DatasetError> {
        let unlabelled = vec![0; self.labels.len()];
        let (labels, first_position) = (self.labels.clone(), self.first_position);
        let mut dataset = Dataset { labels, unlabelled, first_position, ..Dataset::default() };
        for example in 0..self.examples {
            let (tokens, labels) = self.example(example)?;
            let mut longer = Encoded::default();
            for token in (0..tokens.ids.len()).cycle().take(length) {
                longer.ids.push(tokens.ids[token]);
                longer.token_types.push(tokens.token_types[token]);
                longer.special.push(tokens.special[token]);
            }
            dataset.append(&longer, &labels)?;
        }
        let targets = self.targets.as_ref().map(|targets| targets.of_length(self.examples, length));
        dataset.targets = targets.transpose()?;
        Ok(dataset)
    }

    /// Packs examples, given with their places in the effective batch, into a
    /// batch, whose memory is used again.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn pack(
        &self,
        examples: &[(usize, u32)],
        virtual_tokens: u32,
        noise: Option<&Noise>,
        batch: &mut Batch,
    ) -> Result<(), DatasetError> {
        batch.starts.clear();
        batch.starts.push(0);
        batch.virtual_tokens = virtual_tokens;
        for column in [
            &mut batch.ids,
            &mut batch.token_types,
            &mut batch.positions,
            &mut batch.places,
            &mut batch.masked_rows,
        ] {
            column.clear();
        }
        batch.masked_tokens.clear();
        batch.labels.values_mut().for_each(Vec::clear);
        for &(example, place) in examples {
            let (tokens, labels) = self.example(example)?;
            let rows = virtual_tokens + tokens.ids.len() as u32;
            let mut draw = noise.map(|noise| {
                (
                    noise,
                    Stream::new(noise.seed ^ host_ir::random::mix(noise.epoch), &format!("noise {example}")),
                )
            });
            let shift = draw.as_mut().map_or(0, |(noise, stream)| shift(noise, stream, rows));
            batch.ids.extend(0..virtual_tokens);
            batch.token_types.extend((0..virtual_tokens).map(|_| 0));
            batch.positions.extend((0..rows).map(|row| self.first_position + row + shift));
            for (token, &original) in tokens.ids.iter().enumerate() {
                let mut id = original;
                if let Some((noise, stream)) = &mut draw
                    && !tokens.special[token]
                    && stream.unit() < noise.probability
                {
                    batch.masked_rows.push(batch.ids.len() as u32);
                    batch.masked_tokens.push(id as i32);
                    id = match stream.unit() {
                        kind if kind < 0.8 => noise.mask_id,
                        kind if kind < 0.9 => stream.below(u64::from(noise.vocabulary)) as u32,
                        _ => id,
                    };
                }
                batch.ids.push(id);
                batch.token_types.push(tokens.token_types[token]);
            }
            batch.starts.push(batch.ids.len() as u32);
            batch.places.push(place);
            for (field, label) in self.labels.iter().zip(labels) {
                if !batch.labels.contains_key(field) {
                    batch.labels.insert(field.clone(), Vec::new());
                }
                if let Some(column) = batch.labels.get_mut(field) {
                    column.push(label);
                }
            }
        }
        match &self.targets {
            Some(targets) => targets.pack(examples.iter().map(|&(example, _)| example), &mut batch.target)?,
            None => batch.target.clear(),
        }
        Ok(())
    }
}

/// The places by which a sequence's positions are shifted: half of the
/// sequences, as far as the model's positions allow.
fn shift(noise: &Noise, stream: &mut Stream, rows: u32) -> u32 {
    let most = noise.shift.min(noise.positions.saturating_sub(rows));
    match most > 0 && stream.unit() < 0.5 {
        true => stream.below(u64::from(most) + 1) as u32,
        false => 0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use host_ir::task::{Field, FieldValue, Origin};

    use super::*;

    /// Pieces of the test's tokenizer; words from `w0` on have the ids from 5 on.
    const WORDS: usize = 64;

    pub(crate) fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let mut pieces = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n".to_string();
        (0..WORDS).for_each(|word| pieces.push_str(&format!("w{word}\n")));
        fs::write(folder.path().join("vocab.txt"), pieces).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    }

    fn layout() -> Layout {
        let field = |name: &str, kind| Field { name: name.into(), kind, gold: false };
        let labels = FieldType::Label(vec!["no".into(), "yes".into()]);
        Layout { fields: vec![field("text", FieldType::Text), field("label", labels)], ..Layout::default() }
    }

    fn example(line: u64, text: Option<String>, label: Option<u32>) -> Example {
        let values = vec![text.map(FieldValue::Text), label.map(FieldValue::Label)];
        Example { origin: Origin { file: "data".into(), line }, values }
    }

    fn sequence() -> Sequence {
        Sequence { texts: vec!["text".into()], ..Sequence::default() }
    }

    /// A data set of examples with so many tokens each, [CLS] and [SEP] among
    /// them. Example n has the label n % 2, but the last one none.
    pub(crate) fn dataset(lengths: &[usize]) -> Dataset {
        let examples: Vec<Example> = (0..lengths.len())
            .map(|n| {
                let words: Vec<String> = (2..lengths[n]).map(|k| format!("w{}", (n + k) % WORDS)).collect();
                let label = (n + 1 < lengths.len()).then_some(n as u32 % 2);
                example(n as u64 + 1, Some(words.join(" ")), label)
            })
            .collect();
        read(&examples, 512).unwrap()
    }

    fn read(examples: &[Example], at_most: usize) -> Result<Dataset, DatasetError> {
        let (sequence, layout, tokenizer) = (sequence(), layout(), tokenizer());
        let mut dataset = Dataset::new(&layout);
        let reading =
            Reading { sequence: &sequence, layout: &layout, tokenizer: &tokenizer, at_most, segments: 2 };
        dataset.add(examples, &reading)?;
        Ok(dataset)
    }

    fn noise(probability: f64) -> Noise {
        let vocabulary = 5 + WORDS as u32;
        Noise { seed: 3, epoch: 1, probability, shift: 0, positions: 64, mask_id: 4, vocabulary }
    }

    #[test]
    fn examples_become_columns() {
        let dataset = dataset(&[4, 3, 6]);
        assert_eq!((dataset.len(), dataset.tokens(), dataset.longest(), dataset.cut), (3, 13, 6, 0));
        assert_eq!((dataset.unlabelled("label"), dataset.unlabelled("text")), (1, 0));
        let mut batch = Batch::default();
        dataset.pack(&[(2, 0), (1, 5)], 2, None, &mut batch).unwrap();
        assert_eq!(batch.starts, [0, 8, 13]);
        assert_eq!(batch.ids, [0, 1, 2, 9, 10, 11, 12, 3, 0, 1, 2, 8, 3]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4]);
        assert_eq!((&batch.places[..], &batch.labels["label"][..]), (&[0, 5][..], &[-1, 1][..]));
        assert!(batch.masked_rows.is_empty());
        // The same batch is filled again.
        dataset.pack(&[(0, 1)], 0, None, &mut batch).unwrap();
        assert_eq!((&batch.starts[..], &batch.ids[..]), (&[0, 4][..], &[2, 7, 8, 3][..]));
        assert_eq!(batch.labels["label"], [0]);
    }

    #[test]
    fn long_texts_are_counted_and_missing_ones_named() {
        let examples = [example(1, Some("w0 w1 w2 w3".into()), None), example(2, Some("w0".into()), None)];
        let dataset = read(&examples, 5).unwrap();
        assert_eq!((dataset.cut, dataset.length(0), dataset.length(1)), (1, Ok(5), Ok(3)));
        let error = read(&[example(7, None, None)], 5).unwrap_err().to_string();
        assert_eq!(error, "data:7: the example has no text \"text\"");
        let error = read(&examples, 2).unwrap_err().to_string();
        assert!(error.starts_with("data:1: at most 2 tokens leave no room"), "{error}");
    }

    #[test]
    fn another_length_repeats_or_cuts() {
        let dataset = dataset(&[4, 6]).of_length(5).unwrap();
        assert_eq!((dataset.len(), dataset.tokens(), dataset.longest()), (2, 10, 5));
        let mut batch = Batch::default();
        dataset.pack(&[(0, 0), (1, 1)], 0, None, &mut batch).unwrap();
        assert_eq!(batch.ids, [2, 7, 8, 3, 2, 2, 8, 9, 10, 11]);
        assert_eq!(batch.labels["label"], [0, -1]);
    }

    #[test]
    fn noise_is_of_seed_epoch_and_example_alone() {
        let dataset = dataset(&[40; 6]);
        let masked = |examples: &[usize], noise: &Noise| -> Vec<(Vec<u32>, Vec<i32>)> {
            let placed: Vec<(usize, u32)> = examples.iter().map(|&example| (example, 0)).collect();
            let mut batch = Batch::default();
            dataset.pack(&placed, 1, Some(noise), &mut batch).unwrap();
            let originals = |place: usize| -> Vec<i32> {
                let rows = batch.starts[place]..batch.starts[place + 1];
                let pairs = batch.masked_rows.iter().zip(&batch.masked_tokens);
                pairs.filter(|(row, _)| rows.contains(row)).map(|(_, &token)| token).collect()
            };
            let ids = |place: usize| {
                batch.ids[batch.starts[place] as usize..batch.starts[place + 1] as usize].to_vec()
            };
            (0..examples.len()).map(|place| (ids(place), originals(place))).collect()
        };
        let noise = noise(0.3);
        let together = masked(&[0, 1, 2, 3, 4, 5], &noise);
        assert_eq!(masked(&[4, 1], &noise), [together[4].clone(), together[1].clone()]);
        assert_ne!(masked(&[4], &Noise { epoch: 2, ..noise })[0], together[4]);
        assert_ne!(masked(&[4], &Noise { seed: 4, ..noise })[0], together[4]);
    }

    /// Devlin et al. 2019, section 3.1: 80% the mask token, 10% a random one,
    /// 10% what stood there. Bounds are four standard deviations.
    #[test]
    fn noise_has_its_shares() {
        let dataset = dataset(&[62; 200]);
        let placed: Vec<(usize, u32)> = (0..200).map(|example| (example, 0)).collect();
        let mut batch = Batch::default();
        dataset.pack(&placed, 0, Some(&noise(0.15)), &mut batch).unwrap();
        let (mut mask, mut same) = (0.0, 0.0);
        for (&row, &token) in batch.masked_rows.iter().zip(&batch.masked_tokens) {
            assert!(token >= 5, "a special token was chosen");
            let now = batch.ids[row as usize];
            mask += f64::from(u8::from(now == 4));
            same += f64::from(u8::from(now == token as u32));
        }
        assert!(batch.masked_rows.is_sorted());
        let chosen = batch.masked_rows.len() as f64;
        let within = |share: f64, count: f64, of: f64| {
            let bound = 4.0 * (share * (1.0 - share) / of).sqrt();
            assert!((count / of - share).abs() < bound, "{count} of {of} are not {share}");
        };
        within(0.15, chosen, 200.0 * 60.0);
        // A random token is the mask, or what stood there, once in the vocabulary.
        within(0.8 + 0.1 / 69.0, mask, chosen);
        within(0.1 + 0.1 / 69.0, same, chosen);
    }

    #[test]
    fn positions_are_shifted_for_half_and_stay_in_bounds() {
        let dataset = dataset(&[10; 400]);
        let placed: Vec<(usize, u32)> = (0..400).map(|example| (example, 0)).collect();
        let mut batch = Batch::default();
        let noise = Noise { shift: 100, positions: 31, ..noise(0.1) };
        dataset.pack(&placed, 1, Some(&noise), &mut batch).unwrap();
        let firsts: Vec<u32> =
            batch.starts[..400].iter().map(|&start| batch.positions[start as usize]).collect();
        // 31 positions less the 11 rows; of the half that is drawn, 1 in 21 stays at 0.
        assert_eq!(firsts.iter().max(), Some(&20));
        let shifted = firsts.iter().filter(|&&first| first > 0).count() as f64 / 400.0;
        assert!((shifted - 0.5 * 20.0 / 21.0).abs() < 0.1, "{shifted}");
        let moved = Noise { positions: 11, ..noise };
        dataset.pack(&placed, 1, Some(&moved), &mut batch).unwrap();
        assert_eq!(batch.positions.iter().max(), Some(&10));
    }
}
