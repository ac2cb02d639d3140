//! Examples that stand twice: texts that a model is scored on and has trained on.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use host_engine::data::reading::Reading;
use host_ir::task::{Example, FieldValue};

/// A digest of all that the model reads of an example.
pub fn digest(example: &Example, fields: &[usize]) -> u64 {
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

/// The places of the fields that the model reads.
pub fn read_fields(reading: &Reading<'_>) -> Vec<usize> {
    let names = reading.sequence.texts.iter().chain(reading.sequence.words.iter().map(|(name, _)| name));
    names.filter_map(|name| reading.layout.field(name)).collect()
}

/// The examples of the evaluated splits. Of those that train nothing is kept.
pub struct Seen {
    fields: Vec<usize>,
    /// By digest, the evaluated splits that it stands in, with how often.
    places: HashMap<u64, Vec<(usize, u64)>>,
    splits: Vec<Counted>,
}

struct Counted {
    name: String,
    examples: u64,
    /// Examples that what trains has too.
    trained_on: u64,
}

impl Seen {
    pub fn new(reading: &Reading<'_>) -> Seen {
        Seen { fields: read_fields(reading), places: HashMap::new(), splits: Vec::new() }
    }

    /// Notes examples of an evaluated split.
    pub fn add(&mut self, name: &str, examples: &[Example]) {
        let known = self.splits.iter().position(|split| split.name == name);
        let split = known.unwrap_or_else(|| {
            self.splits.push(Counted { name: name.into(), examples: 0, trained_on: 0 });
            self.splits.len() - 1
        });
        self.splits[split].examples += examples.len() as u64;
        for example in examples {
            let places = self.places.entry(digest(example, &self.fields)).or_default();
            match places.iter_mut().find(|(place, _)| *place == split) {
                Some((_, count)) => *count += 1,
                None => places.push((split, 1)),
            }
        }
    }

    /// Looks for examples that train among those noted.
    pub fn look_for(&mut self, examples: &[Example]) {
        for example in examples {
            // What is found once is not counted again.
            for (split, count) in self.places.remove(&digest(example, &self.fields)).unwrap_or_default() {
                self.splits[split].trained_on += count;
            }
        }
    }

    /// What the user should read.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let found = self.splits.iter().filter(|split| split.trained_on > 0);
        found.map(|split| {
            format!(
                "{} of {} examples of {} stand among those that train too",
                split.trained_on, split.examples, split.name
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::Origin;

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

    #[test]
    fn examples_that_train_are_found_again_once() {
        let mut seen = Seen { fields: vec![0, 1], places: HashMap::new(), splits: Vec::new() };
        seen.add("dev", &examples(&[("a", "b"), ("a", "b"), ("ab", ""), ("c", "d")]));
        seen.add("test", &examples(&[("a", "b"), ("e", "f")]));
        seen.look_for(&examples(&[("x", "y"), ("a", "b")]));
        seen.look_for(&examples(&[("a", "b"), ("", "ab"), ("a", "bc")]));
        assert_eq!(
            seen.warnings().collect::<Vec<_>>(),
            [
                "2 of 4 examples of dev stand among those that train too",
                "1 of 2 examples of test stand among those that train too"
            ]
        );
    }
}
