//! The project's own text: a small grammar of film reviews, drawn from a seed.
//!
//! What an opinion word means can be told from the words around it in the
//! unlabelled reviews; the labelled training sentences show only a third of
//! those words, and three quarters of the words of dev and test are others. So
//! the quickstart measures what pretraining is worth.

mod lexicon;

use std::collections::BTreeSet;

use host_ir::random::Stream;
use lexicon::{
    ADJECTIVES, ASPECTS, EMOTIONS, FACTS, INTENSIFIERS, KINDS, Levels, NOUNS, SOFTENERS, VERB_PHRASES,
    VERDICTS,
};

#[cfg(test)]
use lexicon::JOINERS;

/// The seed of the embedded data.
pub const SEED: u64 = 2013;
/// Sentences of the labelled splits.
pub const SPLITS: [(&str, usize); 3] = [("train", 1500), ("dev", 500), ("test", 500)];
/// Reviews of the pretraining text.
pub const REVIEWS: [(&str, usize); 2] = [("train", 60_000), ("dev", 500)];

/// Which opinion words may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    All,
    /// Those that labelled training sentences show.
    Shown,
    /// Three of four from those that they never show.
    MostlyHidden,
}

/// A third of the opinion words is shown, the same for every call.
fn is_shown(word: &str) -> bool {
    host_ir::random::name_key(word).is_multiple_of(3)
}

struct Writer {
    stream: Stream,
    words: Words,
}

impl Writer {
    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.stream.below(words.len() as u64) as usize]
    }

    /// An opinion word of a level.
    fn opinion(&mut self, levels: &Levels, level: usize) -> &'static str {
        let hidden = match self.words {
            Words::All => return self.one_of(levels[level]),
            Words::Shown => false,
            Words::MostlyHidden => self.stream.unit() < 0.75,
        };
        let fitting: Vec<&'static str> =
            levels[level].iter().copied().filter(|word| is_shown(word) != hidden).collect();
        match fitting.is_empty() {
            true => self.one_of(levels[level]),
            false => self.one_of(&fitting),
        }
    }

    /// Intensifiers scale an opinion up, softeners down; most stand alone.
    fn modifier(&mut self) -> (f64, String) {
        match self.stream.unit() {
            draw if draw < 0.12 => (1.4, format!("{} ", self.one_of(INTENSIFIERS))),
            draw if draw < 0.24 => (0.6, format!("{} ", self.one_of(SOFTENERS))),
            _ => (1.0, String::new()),
        }
    }

    /// The level that comes nearest to a value. Modifiers do not enter, so that
    /// a word's company tells its side and not only its strength.
    fn level(value: f64) -> usize {
        (value.clamp(-2.0, 2.0).round() + 2.0) as usize
    }

    /// A clause near a value: its text, and the value that it has.
    fn clause(&mut self, value: f64) -> (String, f64) {
        let of = |level: usize| level as f64 - 2.0;
        let aspect = self.one_of(ASPECTS);
        match self.stream.unit() {
            draw if draw < 0.05 => {
                // Negation turns an opinion round and makes it weaker.
                let level = Self::level(-value);
                let word = self.opinion(&ADJECTIVES, level);
                (format!("the {aspect} is not {word}"), of(level) * -0.6)
            }
            draw if draw < 0.55 => {
                let (scale, modifier) = self.modifier();
                let level = Self::level(value);
                let word = self.opinion(&ADJECTIVES, level);
                (format!("the {aspect} is {modifier}{word}"), of(level) * scale)
            }
            draw if draw < 0.72 => {
                let level = Self::level(value);
                (format!("the {aspect} {}", self.opinion(&VERB_PHRASES, level)), of(level))
            }
            draw if draw < 0.86 => {
                let (scale, modifier) = self.modifier();
                let level = Self::level(value);
                let word = self.opinion(&EMOTIONS, level);
                (format!("i was {modifier}{word} by the {aspect}"), of(level) * scale)
            }
            _ => {
                let level = Self::level(value);
                let word = self.opinion(&NOUNS, level);
                (format!("it is {} {word}", article(word)), of(level))
            }
        }
    }

    /// A sentence near a value: its text, and the value that it has.
    fn sentence(&mut self, value: f64) -> (String, f64) {
        let (text, value) = match self.stream.unit() {
            draw if draw < 0.20 => {
                let (scale, modifier) = self.modifier();
                let level = Self::level(value);
                let (word, kind) = (self.opinion(&ADJECTIVES, level), self.one_of(KINDS));
                let first = if modifier.is_empty() { word } else { modifier.as_str() };
                (format!("{} {modifier}{word} {kind}", article(first)), (level as f64 - 2.0) * scale)
            }
            draw if draw < 0.40 => {
                let (first, a) = self.clause(value);
                let (second, b) = self.clause(value);
                (format!("{first} and {second}"), (a + b) / 2.0)
            }
            draw if draw < 0.50 => {
                // Of a contrast the second part counts three quarters.
                let (first, a) = self.clause(-value);
                let (second, b) = self.clause(value);
                (format!("{first} , but {second}"), 0.25 * a + 0.75 * b)
            }
            _ => self.clause(value),
        };
        (format!("{text} ."), value)
    }

    /// A sentence of a review in which opinions of one side stand close
    /// together, from which their company can be learned.
    fn dense(&mut self, value: f64) -> String {
        let level = Self::level(value);
        let (aspect, kind) = (self.one_of(ASPECTS), self.one_of(KINDS));
        let adjective = self.opinion(&ADJECTIVES, level);
        let second = self.opinion(&ADJECTIVES, level);
        let noun = self.opinion(&NOUNS, level);
        let emotion = self.opinion(&EMOTIONS, level);
        let phrase = self.opinion(&VERB_PHRASES, level);
        match self.stream.below(6) {
            0 => format!("the {aspect} is {adjective} and {second} ."),
            1 => format!("{} {adjective} , {second} {kind} .", article(adjective)),
            2 => format!("it is {} {adjective} {noun} .", article(adjective)),
            3 => format!("i was {emotion} by the {adjective} {aspect} ."),
            4 => format!("the {adjective} {aspect} {phrase} ."),
            _ => format!("the {aspect} {phrase} : {noun} , {adjective} , {emotion} ."),
        }
    }

    fn review(&mut self, held_out: &BTreeSet<String>) -> String {
        let mood = 4.4 * self.stream.unit() - 2.2;
        let mut parts = Vec::new();
        if self.stream.unit() < 0.8 {
            parts.push(format!("{} :", self.one_of(VERDICTS[Self::level(mood)])));
        }
        for _ in 0..2 + self.stream.below(3) {
            let near = mood + 0.3 * self.stream.normal();
            if self.stream.unit() < 0.6 {
                parts.push(self.dense(near));
                continue;
            }
            let sentence = loop {
                let (sentence, _) = self.sentence(near);
                if !held_out.contains(&sentence) {
                    break sentence;
                }
            };
            parts.push(sentence);
        }
        match self.stream.unit() {
            draw if draw < 0.1 => parts.push(format!("{} .", self.one_of(FACTS))),
            draw if draw < 0.2 => {
                let stars = ["one", "two", "three", "four", "five"][Self::level(mood)];
                parts.push(format!("{stars} stars out of five ."));
            }
            _ => {}
        }
        parts.join(" ")
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A label from 0 to 4 of a value, with a little noise.
fn label(value: f64, stream: &mut Stream) -> usize {
    let noisy = value + 0.15 * stream.normal();
    ((noisy / 0.8).round().clamp(-2.0, 2.0) + 2.0) as usize
}

/// The labelled sentences of a split as lines of a label and a text; none
/// of them twice, none of a split in another.
pub fn labelled(wanted: &str) -> String {
    let mut seen = BTreeSet::new();
    let mut lines = String::new();
    for (split, count) in SPLITS {
        let words = if split == "train" { Words::Shown } else { Words::MostlyHidden };
        let mut writer = Writer { stream: Stream::new(SEED, &format!("labelled {split}")), words };
        let mut left = count;
        while left > 0 {
            let target = 4.4 * writer.stream.unit() - 2.2;
            let (sentence, value) = writer.sentence(target);
            let label = label(value, &mut writer.stream);
            if seen.insert(sentence.clone()) {
                left -= 1;
                if split == wanted {
                    lines.push_str(&format!("{label} {sentence}\n"));
                }
            }
        }
    }
    lines
}

/// The sentences of dev and test, which stand in no review.
fn held_out() -> BTreeSet<String> {
    let lines = [labelled("dev"), labelled("test")].concat();
    lines.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_string())).collect()
}

/// The pretraining text of a split, one review a line.
pub fn reviews(split: &str, count: usize) -> String {
    let held_out = held_out();
    let mut writer = Writer { stream: Stream::new(SEED, &format!("reviews {split}")), words: Words::All };
    let mut lines = String::new();
    for _ in 0..count {
        lines.push_str(&writer.review(&held_out));
        lines.push('\n');
    }
    lines
}

/// The pieces of the encoder's WordPiece tokenizer, one a line: all words of the
/// grammar, and letters, of which any other word can be put together.
#[cfg(test)]
pub fn vocabulary() -> String {
    let mut pieces: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).to_vec();
    let mut words = BTreeSet::new();
    let levels = [&ADJECTIVES, &NOUNS, &EMOTIONS, &VERB_PHRASES, &VERDICTS];
    let opinions = levels.iter().flat_map(|levels| levels.iter().copied().flatten().copied());
    let plain = [ASPECTS, KINDS, INTENSIFIERS, SOFTENERS, FACTS, JOINERS].into_iter().flatten().copied();
    for phrase in opinions.chain(plain) {
        words.extend(phrase.split([' ', '-']).map(str::to_string));
    }
    pieces.extend(".,:;!?'\"-()&/$%0123456789".chars().map(String::from));
    let letters = 'a'..='z';
    pieces.extend(letters.clone().map(String::from));
    pieces.extend(letters.chain('0'..='9').map(|letter| format!("##{letter}")));
    words.retain(|word| word.len() > 1);
    pieces.extend(words);
    pieces.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_and_test_stand_nowhere_else() {
        let held_out = held_out();
        assert_eq!(held_out.len(), 1000);
        let train = labelled("train");
        assert!(train.lines().all(|line| !held_out.contains(line.split_once(' ').unwrap().1)));
        let text = reviews("train", 3000);
        let sentence = |line: &str| {
            line.split(" . ").map(|part| part.trim_end_matches(" .").to_string() + " .").collect::<Vec<_>>()
        };
        for line in text.lines() {
            let line = line.split_once(" : ").map_or(line, |(_, rest)| rest);
            assert!(sentence(line).iter().all(|sentence| !held_out.contains(sentence)), "{line}");
        }
    }

    #[test]
    fn labels_are_spread_and_most_words_of_dev_are_new() {
        let lines = labelled("dev");
        let count = |label: char| lines.lines().filter(|line| line.starts_with(label)).count();
        let counts: Vec<usize> = "01234".chars().map(count).collect();
        assert!(counts.iter().all(|&count| (50..150).contains(&count)), "{counts:?}");
        let train = labelled("train");
        let known: BTreeSet<&str> = train.split_whitespace().collect();
        let opinions: Vec<&str> = ADJECTIVES.iter().copied().flatten().copied().collect();
        let used: Vec<&str> = lines.split_whitespace().filter(|word| opinions.contains(word)).collect();
        let new = used.iter().filter(|word| !known.contains(*word)).count();
        assert!(new * 10 > used.len() * 6, "{new} of {}", used.len());
    }

    #[test]
    fn every_word_has_a_piece() {
        let vocabulary = vocabulary();
        let pieces: BTreeSet<&str> = vocabulary.lines().collect();
        assert_eq!(pieces.len(), vocabulary.lines().count());
        let text = labelled("test") + &reviews("dev", 500);
        for word in text.split([' ', '\n', '-']).filter(|word| !word.is_empty()) {
            assert!(pieces.contains(word), "{word}");
        }
    }
}
