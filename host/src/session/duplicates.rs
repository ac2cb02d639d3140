//! Examples that stand twice: within a split, and texts that a model is scored on and has
//! trained on. Of each example a digest of eight bytes is kept, in a temporary file where
//! they are many, and so many digests are compared at a time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use host_engine::data::dataset::DatasetError;
use host_engine::data::find::FoundSplit;
use host_engine::data::reading::Reading;
use host_engine::data::store::Store;
use host_ir::task::{Example, FieldValue, SplitUse};

/// Different digests that are held in memory at a time, more or less: of more, a part
/// after another is looked at.
const AT_A_TIME: u64 = 1 << 21;
/// Bytes that are read at a time.
const READ: usize = 1 << 16;

/// A digest of all that the model reads of an example.
fn digest(example: &Example, fields: &[usize]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for &field in fields {
        match example.values.get(field) {
            Some(Some(FieldValue::Text(text))) => text.hash(&mut hasher),
            Some(Some(FieldValue::Texts(texts) | FieldValue::Words(texts))) => texts.hash(&mut hasher),
            _ => {}
        }
        0xffu8.hash(&mut hasher);
    }
    hasher.finish()
}

/// Whether an example has nothing that the model reads but spaces.
pub fn is_blank(example: &Example, fields: &[usize]) -> bool {
    let blank = |text: &String| text.trim().is_empty();
    fields.iter().all(|&field| match example.values.get(field) {
        Some(Some(FieldValue::Text(text))) => blank(text),
        Some(Some(FieldValue::Texts(texts) | FieldValue::Words(texts))) => texts.iter().all(blank),
        _ => true,
    })
}

/// The places of the fields that the model reads.
pub fn read_fields(reading: &Reading<'_>) -> Vec<usize> {
    let names = reading.sequence.texts.iter().chain(reading.sequence.words.iter().map(|(name, _)| name));
    names.filter_map(|name| reading.layout.field(name)).collect()
}

/// The digests of a split's examples, in their order.
struct Digests {
    name: String,
    trains: bool,
    kept: Store,
}

impl Digests {
    fn len(&self) -> u64 {
        self.kept.bytes() / 8
    }

    /// Hands on those that fall into a part of so many.
    fn of_part(&self, (part, parts): (u64, u64), mut take: impl FnMut(u64)) -> io::Result<()> {
        let mut bytes = vec![0; READ];
        let mut start = 0;
        while start < self.kept.bytes() {
            bytes.truncate((self.kept.bytes() - start).min(READ as u64) as usize);
            self.kept.read(start, &mut bytes)?;
            let digests = bytes.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
            digests.filter(|digest| digest % parts == part).for_each(&mut take);
            start += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The different digests of a part of splits, in ascending order. One that stands there
/// often takes no more memory than another.
fn different(splits: &[&Digests], part: (u64, u64)) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = Vec::new();
    let once = |found: &mut Vec<u64>| {
        found.sort_unstable();
        found.dedup();
    };
    for split in splits {
        split.of_part(part, |digest| {
            if found.len() == found.capacity() {
                once(&mut found);
                if found.len() >= found.capacity() / 2 {
                    found.reserve(found.len().max(READ));
                }
            }
            found.push(digest);
        })?;
    }
    once(&mut found);
    Ok(found)
}

/// What the splits' examples are, by their digests.
pub struct Seen {
    fields: Vec<usize>,
    splits: Vec<Digests>,
    at_a_time: u64,
}

impl Seen {
    pub fn new(reading: &Reading<'_>) -> Seen {
        Seen::of_fields(read_fields(reading), AT_A_TIME)
    }

    fn of_fields(fields: Vec<usize>, at_a_time: u64) -> Seen {
        Seen { fields, splits: Vec::new(), at_a_time }
    }

    /// Notes examples of a split.
    ///
    /// # Errors
    /// A full disk.
    pub fn add(&mut self, split: &FoundSplit, examples: &[Example]) -> Result<(), DatasetError> {
        let known = self.splits.iter().position(|known| known.name == split.name);
        let place = known.unwrap_or_else(|| {
            let (name, trains) = (split.name.clone(), split.usage == SplitUse::Train);
            self.splits.push(Digests { name, trains, kept: Store::default() });
            self.splits.len() - 1
        });
        for example in examples {
            let digest = digest(example, &self.fields);
            self.splits[place].kept.append(&digest.to_le_bytes())?;
        }
        Ok(())
    }

    fn parts(&self, digests: u64) -> u64 {
        digests.div_ceil(self.at_a_time).max(1)
    }

    /// Examples of a split of which the same text stood there before.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn repeated(&self, name: &str) -> Result<u64, DatasetError> {
        let Some(split) = self.splits.iter().find(|split| split.name == name) else { return Ok(0) };
        let parts = self.parts(split.len());
        let mut repeated = split.len();
        for part in 0..parts {
            repeated -= different(&[split], (part, parts))?.len() as u64;
        }
        Ok(repeated)
    }

    /// What the user should read: examples that a model is scored on and trains on.
    ///
    /// # Errors
    /// Reading from the temporary files.
    pub fn warnings(&self) -> Result<Vec<String>, DatasetError> {
        let (train, evaluated): (Vec<&Digests>, Vec<&Digests>) =
            self.splits.iter().partition(|split| split.trains);
        let mut trained_on = vec![0u64; evaluated.len()];
        let parts = self.parts(train.iter().map(|split| split.len()).sum());
        for part in 0..parts {
            let trained = different(&train, (part, parts))?;
            for (split, count) in evaluated.iter().zip(&mut trained_on) {
                split.of_part((part, parts), |digest| {
                    *count += u64::from(trained.binary_search(&digest).is_ok());
                })?;
            }
        }
        let found = evaluated.iter().zip(trained_on).filter(|(_, trained_on)| *trained_on > 0);
        let sentence = |(split, trained_on): (&&Digests, u64)| {
            format!(
                "{trained_on} of {} examples of {} stand among those that train too",
                split.len(),
                split.name
            )
        };
        Ok(found.map(sentence).collect())
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{Container, Origin};

    use super::*;

    fn examples(texts: &[(&str, &str)]) -> Vec<Example> {
        let example = |(question, passage): &(&str, &str)| Example {
            origin: Origin { file: "data".into(), line: 1 },
            values: vec![
                Some(FieldValue::Text(question.to_string())),
                Some(FieldValue::Text(passage.to_string())),
                Some(FieldValue::Label(0)),
            ],
        };
        texts.iter().map(example).collect()
    }

    fn split(name: &str, usage: SplitUse) -> FoundSplit {
        FoundSplit { name: name.into(), usage, files: Vec::new(), container: Container::Lines }
    }

    #[test]
    fn examples_that_train_are_found_again() {
        // However few digests are compared at a time.
        for at_a_time in [1, 2, 3, AT_A_TIME] {
            let mut seen = Seen::of_fields(vec![0, 1], at_a_time);
            let (train, dev, test) = (
                split("train", SplitUse::Train),
                split("dev", SplitUse::Evaluate),
                split("test", SplitUse::Optional),
            );
            seen.add(&dev, &examples(&[("a", "b"), ("a", "b"), ("ab", ""), ("c", "d")])).unwrap();
            seen.add(&train, &examples(&[("x", "y"), ("a", "b")])).unwrap();
            seen.add(&test, &examples(&[("a", "b"), ("e", "f")])).unwrap();
            seen.add(&train, &examples(&[("a", "b"), ("", "ab"), ("a", "bc"), ("a", "b")])).unwrap();
            assert_eq!(
                seen.warnings().unwrap(),
                [
                    "2 of 4 examples of dev stand among those that train too",
                    "1 of 2 examples of test stand among those that train too"
                ]
            );
            let repeated = ["train", "dev", "test", "other"].map(|name| seen.repeated(name).unwrap());
            assert_eq!(repeated, [2, 1, 0, 0]);
        }
    }

    #[test]
    fn what_stands_there_often_is_kept_once() {
        let mut seen = Seen::of_fields(vec![0], AT_A_TIME);
        let train = split("train", SplitUse::Train);
        let texts: Vec<String> = (0..40_000).map(|number| (number % 7).to_string()).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|text| (text.as_str(), "")).collect();
        for _ in 0..5 {
            seen.add(&train, &examples(&texts)).unwrap();
        }
        assert_eq!(seen.repeated("train"), Ok(199_993));
        let found = different(&[&seen.splits[0]], (0, 1)).unwrap();
        assert_eq!((found.len(), found.capacity()), (7, READ));
    }
}
