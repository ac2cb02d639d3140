//! A split as tokens: compact columns, from which batches are packed.

use std::collections::BTreeMap;

use host_ir::random::Stream;
use host_ir::task::{Example, FieldType, Layout, Sequence};
use rayon::prelude::*;

use crate::batch::Batch;
use crate::text::{Encoded, Tokenizer};

/// Why examples cannot become input of the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

/// A tokenised split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The first token of each example, and their number.
    starts: Vec<u32>,
    ids: Vec<u32>,
    token_types: Vec<u8>,
    special: Vec<bool>,
    /// By label field, `[examples]`; -1 where there is none.
    labels: BTreeMap<String, Vec<i32>>,
    /// Examples whose text was longer than the model reads.
    pub cut: usize,
}

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
    /// Tokenises examples, in parallel, in their order. `at_most` counts special
    /// tokens and no virtual ones.
    ///
    /// # Errors
    /// An example without a text that the sequence reads.
    pub fn new(
        examples: &[Example],
        sequence: &Sequence,
        layout: &Layout,
        tokenizer: &Tokenizer,
        at_most: usize,
    ) -> Result<Dataset, DatasetError> {
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
        let mut dataset = Dataset { starts: vec![0], ..Dataset::default() };
        for example in encoded {
            dataset.cut += usize::from(example.cut);
            dataset.ids.extend(example.ids);
            dataset.token_types.extend(example.token_types.iter().map(|&segment| segment as u8));
            dataset.special.extend(example.special);
            dataset.starts.push(dataset.ids.len() as u32);
        }
        for (place, field) in layout.fields.iter().enumerate() {
            if matches!(field.kind, FieldType::Label(_)) {
                let labels =
                    examples.iter().map(|example| example.label(place).map_or(-1, |label| label as i32));
                dataset.labels.insert(field.name.clone(), labels.collect());
            }
        }
        Ok(dataset)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of an example.
    pub fn length(&self, example: usize) -> usize {
        (self.starts[example + 1] - self.starts[example]) as usize
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        (0..self.len()).map(|example| self.length(example)).max().unwrap_or(0)
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Labels of a field, -1 where there is none.
    pub fn labels(&self, field: &str) -> Option<&[i32]> {
        self.labels.get(field).map(Vec::as_slice)
    }

    /// Packs examples, given with their places in the effective batch, into a
    /// batch, whose memory is used again.
    pub fn pack(
        &self,
        examples: &[(usize, u32)],
        virtual_tokens: u32,
        noise: Option<&Noise>,
        batch: &mut Batch,
    ) {
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
            let range = self.starts[example] as usize..self.starts[example + 1] as usize;
            let rows = virtual_tokens + range.len() as u32;
            let mut draw = noise.map(|noise| {
                (
                    noise,
                    Stream::new(noise.seed ^ host_ir::random::mix(noise.epoch), &format!("noise {example}")),
                )
            });
            let shift = draw.as_mut().map_or(0, |(noise, stream)| shift(noise, stream, rows));
            batch.ids.extend(0..virtual_tokens);
            batch.token_types.extend((0..virtual_tokens).map(|_| 0));
            batch.positions.extend((0..rows).map(|row| row + shift));
            for token in range {
                let mut id = self.ids[token];
                if let Some((noise, stream)) = &mut draw
                    && !self.special[token]
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
                batch.token_types.push(u32::from(self.token_types[token]));
            }
            batch.starts.push(batch.ids.len() as u32);
            batch.places.push(place);
            for (field, labels) in &self.labels {
                if !batch.labels.contains_key(field) {
                    batch.labels.insert(field.clone(), Vec::new());
                }
                if let Some(column) = batch.labels.get_mut(field) {
                    column.push(labels[example]);
                }
            }
        }
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

    fn tokenizer() -> Tokenizer {
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
        Dataset::new(&examples, &sequence(), &layout(), &tokenizer(), 512).unwrap()
    }

    fn noise(probability: f64) -> Noise {
        let vocabulary = 5 + WORDS as u32;
        Noise { seed: 3, epoch: 1, probability, shift: 0, positions: 64, mask_id: 4, vocabulary }
    }

    #[test]
    fn examples_become_columns() {
        let dataset = dataset(&[4, 3, 6]);
        assert_eq!((dataset.len(), dataset.tokens(), dataset.longest(), dataset.cut), (3, 13, 6, 0));
        assert_eq!(dataset.labels("label"), Some(&[0, 1, -1][..]));
        let mut batch = Batch::default();
        dataset.pack(&[(2, 0), (1, 5)], 2, None, &mut batch);
        assert_eq!(batch.starts, [0, 8, 13]);
        assert_eq!(batch.ids, [0, 1, 2, 9, 10, 11, 12, 3, 0, 1, 2, 8, 3]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4]);
        assert_eq!((&batch.places[..], &batch.labels["label"][..]), (&[0, 5][..], &[-1, 1][..]));
        assert!(batch.masked_rows.is_empty());
        // The same batch is filled again.
        dataset.pack(&[(0, 1)], 0, None, &mut batch);
        assert_eq!((&batch.starts[..], &batch.ids[..]), (&[0, 4][..], &[2, 7, 8, 3][..]));
        assert_eq!(batch.labels["label"], [0]);
    }

    #[test]
    fn long_texts_are_counted_and_missing_ones_named() {
        let examples = [example(1, Some("w0 w1 w2 w3".into()), None), example(2, Some("w0".into()), None)];
        let new = |examples: &[Example], at_most| {
            Dataset::new(examples, &sequence(), &layout(), &tokenizer(), at_most)
        };
        let dataset = new(&examples, 5).unwrap();
        assert_eq!((dataset.cut, dataset.length(0), dataset.length(1)), (1, 5, 3));
        let error = new(&[example(7, None, None)], 5).unwrap_err().to_string();
        assert_eq!(error, "data:7: the example has no text \"text\"");
        let error = new(&examples, 2).unwrap_err().to_string();
        assert!(error.starts_with("data:1: at most 2 tokens leave no room"), "{error}");
    }

    #[test]
    fn noise_is_of_seed_epoch_and_example_alone() {
        let dataset = dataset(&[40; 6]);
        let masked = |examples: &[usize], noise: &Noise| -> Vec<(Vec<u32>, Vec<i32>)> {
            let placed: Vec<(usize, u32)> = examples.iter().map(|&example| (example, 0)).collect();
            let mut batch = Batch::default();
            dataset.pack(&placed, 1, Some(noise), &mut batch);
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
        dataset.pack(&placed, 0, Some(&noise(0.15)), &mut batch);
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
        dataset.pack(&placed, 1, Some(&noise), &mut batch);
        let firsts: Vec<u32> =
            batch.starts[..400].iter().map(|&start| batch.positions[start as usize]).collect();
        // 31 positions less the 11 rows; of the half that is drawn, 1 in 21 stays at 0.
        assert_eq!(firsts.iter().max(), Some(&20));
        let shifted = firsts.iter().filter(|&&first| first > 0).count() as f64 / 400.0;
        assert!((shifted - 0.5 * 20.0 / 21.0).abs() < 0.1, "{shifted}");
        let moved = Noise { positions: 11, ..noise };
        dataset.pack(&placed, 1, Some(&moved), &mut batch);
        assert_eq!(batch.positions.iter().max(), Some(&10));
    }
}
