//! ROUGE (Lin 2004, "ROUGE: a package for automatic evaluation of summaries")
//! as rouge-score 0.1.2 computes it: ROUGE-N, ROUGE-L and ROUGE-Lsum, with its
//! words and its stemmer.

use std::collections::{BTreeSet, HashMap};

use super::porter;

/// Precision, recall and F1, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

impl Score {
    /// Of common units, and of those that reference and prediction have; 0
    /// where there are none.
    fn of(common: usize, reference: usize, prediction: usize) -> Score {
        let ratio = |whole: usize| common as f64 / whole.max(1) as f64;
        let (precision, recall) = (ratio(prediction), ratio(reference));
        let sum = precision + recall;
        Score { precision, recall, f1: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// The four scores of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Words in common.
    pub rouge1: Score,
    /// Pairs of words in common.
    pub rouge2: Score,
    /// The longest common subsequence of the whole texts.
    pub rouge_l: Score,
    /// Over sentences, one a line: the union of each reference sentence's
    /// longest common subsequences with the prediction's sentences (Lin 2004,
    /// section 3.2), each word counted as often as both texts have it.
    pub rouge_lsum: Score,
}

/// The scores of a prediction; with `stemmer`, of the words' stems.
pub fn rouge(reference: &str, prediction: &str, stemmer: bool) -> Rouge {
    let mut numbers = Numbers::default();
    let references = sentences(reference, stemmer, &mut numbers);
    let predictions = sentences(prediction, stemmer, &mut numbers);
    // A line's end is no part of a word: the words of the text are those of its lines.
    let (all, found) = (references.concat(), predictions.concat());
    Rouge {
        rouge1: n_grams::<1>(&all, &found),
        rouge2: n_grams::<2>(&all, &found),
        rouge_l: Score::of(common_subsequence(&all, &found).len(), all.len(), found.len()),
        rouge_lsum: by_sentences(&references, &predictions),
    }
}

/// The score that is best by F1 of several references' for one prediction, each
/// kind by itself.
pub fn rouge_of_several(references: &[&str], prediction: &str, stemmer: bool) -> Rouge {
    let mut scores = references.iter().map(|reference| rouge(reference, prediction, stemmer));
    let first = scores.next().unwrap_or_default();
    let better = |a: Score, b: Score| if b.f1 > a.f1 { b } else { a };
    scores.fold(first, |best, other| Rouge {
        rouge1: better(best.rouge1, other.rouge1),
        rouge2: better(best.rouge2, other.rouge2),
        rouge_l: better(best.rouge_l, other.rouge_l),
        rouge_lsum: better(best.rouge_lsum, other.rouge_lsum),
    })
}

/// The words of a text: runs of a to z and 0 to 9 in lower case; with
/// `stemmer`, stems of those longer than three letters.
pub fn words(text: &str, stemmer: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    let stemmed = |word: &str| if stemmer && word.len() > 3 { porter::stem(word) } else { word.to_string() };
    words.filter(|word| !word.is_empty()).map(stemmed).collect()
}

/// Words as numbers, so that they compare quickly.
#[derive(Default)]
struct Numbers(HashMap<String, u32>);

impl Numbers {
    fn of(&mut self, word: String) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(word).or_insert(next)
    }
}

/// The words of each line that is not empty.
fn sentences(text: &str, stemmer: bool, numbers: &mut Numbers) -> Vec<Vec<u32>> {
    let lines = text.split('\n').filter(|line| !line.is_empty());
    lines.map(|line| words(line, stemmer).into_iter().map(|word| numbers.of(word)).collect()).collect()
}

fn n_grams<const N: usize>(reference: &[u32], prediction: &[u32]) -> Score {
    let counts = |words: &[u32]| {
        let mut counts: HashMap<Vec<u32>, usize> = HashMap::new();
        words.windows(N).for_each(|n_gram| *counts.entry(n_gram.to_vec()).or_default() += 1);
        counts
    };
    let (wanted, found) = (counts(reference), counts(prediction));
    let common = wanted.iter().map(|(n_gram, count)| *count.min(found.get(n_gram).unwrap_or(&0))).sum();
    let total = |words: &[u32]| (words.len() + 1).saturating_sub(N);
    Score::of(common, total(reference), total(prediction))
}

/// Places in the reference of one of the longest common subsequences: the one
/// that rouge-score reads out of the table, which matters for the union.
fn common_subsequence(reference: &[u32], prediction: &[u32]) -> Vec<usize> {
    let columns = prediction.len() + 1;
    let mut lengths = vec![0u32; (reference.len() + 1) * columns];
    for (i, word) in reference.iter().enumerate() {
        for (j, other) in prediction.iter().enumerate() {
            let (above, here) = (i * columns + j, (i + 1) * columns + j);
            lengths[here + 1] = match word == other {
                true => lengths[above] + 1,
                false => lengths[above + 1].max(lengths[here]),
            };
        }
    }
    let (mut i, mut j) = (reference.len(), prediction.len());
    let mut places = Vec::new();
    while i > 0 && j > 0 {
        if reference[i - 1] == prediction[j - 1] {
            places.push(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if lengths[i * columns + j - 1] > lengths[(i - 1) * columns + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    places.reverse();
    places
}

fn by_sentences(references: &[Vec<u32>], predictions: &[Vec<u32>]) -> Score {
    let counts = |sentences: &[Vec<u32>]| {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        sentences.iter().flatten().for_each(|&word| *counts.entry(word).or_default() += 1);
        counts
    };
    let (mut wanted, mut found) = (counts(references), counts(predictions));
    let mut hits = 0;
    for reference in references {
        let common: BTreeSet<usize> =
            predictions.iter().flat_map(|prediction| common_subsequence(reference, prediction)).collect();
        for place in common {
            let (Some(left), Some(there)) =
                (wanted.get_mut(&reference[place]), found.get_mut(&reference[place]))
            else {
                continue;
            };
            if *left > 0 && *there > 0 {
                (*left, *there) = (*left - 1, *there - 1);
                hits += 1;
            }
        }
    }
    let total = |sentences: &[Vec<u32>]| sentences.iter().map(Vec::len).sum();
    Score::of(hits, total(references), total(predictions))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Compares with a case's scores, each (recall, precision, F1).
    fn check(case: &Value) {
        let text = |key: &str| case[key].as_str().unwrap();
        for (key, stemmer) in [("nostem", false), ("stem", true)] {
            let found = rouge(text("target"), text("prediction"), stemmer);
            let scores = [
                ("rouge1", found.rouge1),
                ("rouge2", found.rouge2),
                ("rougeL", found.rouge_l),
                ("rougeLsum", found.rouge_lsum),
            ];
            for (name, score) in scores {
                let wanted: Vec<f64> = serde_json::from_value(case[key][name].clone()).unwrap();
                for (found, wanted) in [score.recall, score.precision, score.f1].into_iter().zip(wanted) {
                    assert!((found - wanted).abs() <= 1e-6, "{key} {name}: {found} and {wanted} in {case}");
                }
            }
        }
    }

    /// Scores of rouge-score, written by tests/reference/rouge.py.
    #[test]
    fn scores_are_those_of_rouge_score() {
        let text = include_str!("../../../../tests/golden/rouge.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        cases.iter().for_each(check);
        assert!(cases.len() >= 60);
    }

    /// Items of XSum with the lead as the summary, where they are there.
    #[test]
    fn scores_of_summaries_are_those_of_rouge_score() {
        let folder = std::env::var_os("HOST_TEST_DATA").map(std::path::PathBuf::from);
        let file = folder.map(|folder| folder.join("rouge/lead_pairs.jsonl")).filter(|file| file.is_file());
        let Some(file) = file else {
            println!("skipped: HOST_TEST_DATA names no folder with rouge/lead_pairs.jsonl");
            return;
        };
        let text = std::fs::read_to_string(file).unwrap();
        let cases: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        cases.iter().for_each(check);
        assert!(!cases.is_empty());
    }

    #[test]
    fn the_best_of_several_references_counts() {
        let found = rouge_of_several(&["nothing of it", "a good film"], "a good film", false);
        assert_eq!(found.rouge1.f1, 1.0);
        assert_eq!(rouge_of_several(&[], "a", false), Rouge::default());
    }

    #[test]
    fn texts_without_words_score_nothing() {
        assert_eq!(rouge("", "a word", false), Rouge::default());
        assert_eq!(rouge("a word", " ... \n\n", true), Rouge::default());
    }
}
