//! Data sets of a small vocabulary.

use std::fs;

use host_ir::task::{Field, FieldValue, Origin, Sequence};

use super::*;
use crate::batch::Batch;
use crate::text::Tokenizer;

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
    assert_eq!((dataset.most_frequent("label"), dataset.most_frequent("text")), (Some(0), None));
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
        let ids =
            |place: usize| batch.ids[batch.starts[place] as usize..batch.starts[place + 1] as usize].to_vec();
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
    let firsts: Vec<u32> = batch.starts[..400].iter().map(|&start| batch.positions[start as usize]).collect();
    // 31 positions less the 11 rows; of the half that is drawn, 1 in 21 stays at 0.
    assert_eq!(firsts.iter().max(), Some(&20));
    let shifted = firsts.iter().filter(|&&first| first > 0).count() as f64 / 400.0;
    assert!((shifted - 0.5 * 20.0 / 21.0).abs() < 0.1, "{shifted}");
    let moved = Noise { positions: 11, ..noise };
    dataset.pack(&placed, 1, Some(&moved), &mut batch).unwrap();
    assert_eq!(batch.positions.iter().max(), Some(&10));
}

/// A data set of examples of so many pieces with so many tokens each, [CLS] and
/// [SEP] among them. Example n has the label n % 2.
pub(crate) fn pieces(lengths: &[&[usize]]) -> Dataset {
    let fields = vec![
        Field { name: "choices".into(), kind: FieldType::Texts, gold: false },
        layout().fields.pop().unwrap(),
    ];
    let layout = Layout { fields, ..Layout::default() };
    let sequence = Sequence { texts: vec!["choices".into()], each: Some(0), ..Sequence::default() };
    let tokenizer = tokenizer();
    let text = |n: usize, length: usize| -> String {
        (2..length).map(|k| format!("w{}", (n + k) % WORDS)).collect::<Vec<_>>().join(" ")
    };
    let examples = lengths.iter().enumerate().map(|(n, lengths)| {
        let texts = lengths.iter().map(|&length| text(n, length)).collect();
        let values = vec![Some(FieldValue::Texts(texts)), Some(FieldValue::Label(n as u32 % 2))];
        Example { origin: Origin { file: "data".into(), line: n as u64 + 1 }, values }
    });
    let mut dataset = Dataset::new(&layout);
    let reading =
        Reading { sequence: &sequence, layout: &layout, tokenizer: &tokenizer, at_most: 512, segments: 2 };
    dataset.add(&examples.collect::<Vec<_>>(), &reading).unwrap();
    dataset
}

#[test]
fn pieces_of_an_example_stand_together() {
    let dataset = pieces(&[&[3, 4], &[5], &[3, 3, 4]]);
    assert_eq!((dataset.len(), dataset.tokens(), dataset.longest()), (3, 22, 5));
    assert_eq!((dataset.size(2, 2), dataset.largest(2)), (Ok((3, 16)), (3, 16)));
    let mut batch = Batch::default();
    dataset.pack(&[(2, 4), (1, 0), (0, 1)], 1, None, &mut batch).unwrap();
    assert_eq!(batch.example_starts, [0, 3, 4, 6]);
    assert_eq!(batch.starts, [0, 4, 8, 13, 19, 23, 28]);
    assert_eq!(batch.places, [4, 5, 6, 0, 1, 2]);
    assert_eq!(batch.labels["label"], [0, 0, 0, 1, 0, 0]);
    assert_eq!(batch.labels_of_examples("label"), Some(&[0, 1, 0][..]));
    assert_eq!((batch.examples(), batch.pieces(0), batch.pieces(2)), (3, 0..3, 4..6));
    // The same batch is filled again.
    dataset.pack(&[(1, 0)], 0, None, &mut batch).unwrap();
    assert_eq!((&batch.example_starts[..], &batch.places[..]), (&[0, 1][..], &[0][..]));
    assert_eq!(batch.labels_of_examples("label"), Some(&[1][..]));
}

#[test]
fn another_number_of_choices_is_named() {
    let (mut layout, tokenizer) = (layout(), tokenizer());
    layout.fields[0].kind = FieldType::Texts;
    let sequence =
        Sequence { texts: vec!["text".into()], each: Some(0), choices: Some(3), ..Sequence::default() };
    let reading =
        Reading { sequence: &sequence, layout: &layout, tokenizer: &tokenizer, at_most: 9, segments: 2 };
    let add = |texts: &[&str]| {
        let mut example = example(7, None, None);
        example.values[0] = Some(FieldValue::Texts(texts.iter().map(|text| text.to_string()).collect()));
        Dataset::new(&layout).add(&[example], &reading).map_err(|error| error.to_string())
    };
    assert_eq!(add(&["w0", "w1", "w2"]), Ok(()));
    assert_eq!(add(&["w0"]), Err("data:7: the example has 1 choices, and 3 are wanted".into()));
}

/// The decoder reads what the encoder does, its virtual rows left out; its rows count
/// for the size of batches.
#[test]
fn a_decoder_may_read_the_sequences_once_more() {
    let examples = [example(1, Some("w0 w1".into()), Some(0)), example(2, Some("w2".into()), Some(1))];
    let (sequence, layout, tokenizer) = (sequence(), layout(), tokenizer());
    let reading =
        Reading { sequence: &sequence, layout: &layout, tokenizer: &tokenizer, at_most: 9, segments: 1 };
    let decoder = |end| Decoder { start: 9, ends: vec![end], first_position: 2, ..Decoder::default() };
    let read = |end| {
        let mut dataset = Dataset { rereads: Some(decoder(end)), ..Dataset::new(&layout) };
        dataset.add(&examples, &reading).map(|()| dataset)
    };
    let dataset = read(3).unwrap();
    assert_eq!((dataset.size(0, 5), dataset.size(1, 5)), (Ok((1, 13)), Ok((1, 11))));
    assert_eq!(dataset.most_targets(), 4);
    let mut batch = Batch::default();
    dataset.pack(&[(1, 0), (0, 1)], 2, None, &mut batch).unwrap();
    assert_eq!(batch.ids, [0, 1, 2, 7, 3, 0, 1, 2, 5, 6, 3]);
    assert_eq!((&batch.target.starts[..], &batch.target.tokens[..]), (&[0, 3, 7][..], &[][..]));
    assert_eq!(batch.target.ids, [9, 2, 7, 9, 2, 5, 6]);
    assert_eq!(batch.target.positions, [2, 3, 4, 2, 3, 4, 5]);
    assert_eq!(batch.target.last_rows().collect::<Vec<_>>(), [2, 6]);
    assert!(dataset.of_length(5).unwrap().rereads.is_some());
    let error = read(4).unwrap_err().to_string();
    assert!(error.starts_with("data:1: the tokens do not end with"), "{error}");
}
