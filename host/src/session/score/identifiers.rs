//! Examples by the text that identifies them, so that two files are matched whatever their
//! order: of each a digest and a number are in memory.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Result, bail};
use host_engine::data::kept::Kept;
use host_ir::task::Example;

pub struct ByIdentifier<'a> {
    examples: &'a Kept<Example>,
    /// The place of the field.
    id: usize,
    digest: fn(&str) -> u64,
    /// With the number of each example, in ascending order. Different texts may have the
    /// same one.
    digests: Vec<(u64, u32)>,
}

impl<'a> ByIdentifier<'a> {
    /// By the field at a place.
    ///
    /// # Errors
    /// A text that identifies two examples.
    pub fn new(examples: &'a Kept<Example>, id: usize) -> Result<ByIdentifier<'a>> {
        ByIdentifier::by(examples, id, digest)
    }

    fn by(examples: &'a Kept<Example>, id: usize, digest: fn(&str) -> u64) -> Result<ByIdentifier<'a>> {
        let mut digests = Vec::with_capacity(examples.len());
        for (number, example) in (0..).zip(examples.iter()) {
            digests.push((digest(example?.text(id).unwrap_or_default()), number));
        }
        digests.sort_unstable();
        let found = ByIdentifier { examples, id, digest, digests };
        let mut again: Vec<u32> = Vec::new();
        for alike in found.digests.chunk_by(|one, other| one.0 == other.0).filter(|alike| alike.len() > 1) {
            let mut names = BTreeSet::new();
            for &(_, number) in alike {
                if !names.insert(found.named(number)?.0) {
                    again.push(number);
                }
            }
        }
        match again.into_iter().min() {
            Some(number) => {
                let (name, example) = found.named(number)?;
                bail!("{}: {name} is there twice", example.origin)
            }
            None => Ok(found),
        }
    }

    fn named(&self, number: u32) -> Result<(String, Example)> {
        let example = self.examples.get(number as usize)?;
        Ok((example.text(self.id).unwrap_or_default().to_string(), example))
    }

    /// The example that a text identifies.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn find(&self, name: &str) -> Result<Option<Example>> {
        let wanted = (self.digest)(name);
        let first = self.digests.partition_point(|(digest, _)| *digest < wanted);
        for &(_, number) in self.digests[first..].iter().take_while(|(digest, _)| *digest == wanted) {
            let (known, example) = self.named(number)?;
            if known == name {
                return Ok(Some(example));
            }
        }
        Ok(None)
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use host_ir::task::{FieldValue, Origin};

    use super::*;

    fn examples(names: &[&str]) -> Kept<Example> {
        let mut examples = Kept::default();
        for (line, name) in (1..).zip(names) {
            let origin = Origin { file: "data".into(), line };
            let values = vec![None, Some(FieldValue::Text(name.to_string()))];
            examples.add(&Example { origin, values }).unwrap();
        }
        examples
    }

    /// Whether no two texts have the same digest, or some, or all.
    const DIGESTS: [fn(&str) -> u64; 3] = [digest, |text| text.len() as u64, |_| 0];

    #[test]
    fn examples_are_found_by_their_texts_whatever_the_digests_are() {
        let examples = examples(&["wsj/2", "nw/1", "", "wsj/1", "a"]);
        for digest in DIGESTS {
            let found = ByIdentifier::by(&examples, 1, digest).unwrap();
            let line = |name: &str| found.find(name).unwrap().map(|example| example.origin.line);
            let lines = ["a", "wsj/1", "wsj/2", "", "nw/1", "b", "wsj/3"].map(line);
            assert_eq!(lines, [Some(5), Some(4), Some(1), Some(3), Some(2), None, None]);
        }
    }

    #[test]
    fn the_first_text_that_is_there_again_is_named() {
        let examples = examples(&["c", "a", "b", "b", "a", "b"]);
        for digest in DIGESTS {
            let error = ByIdentifier::by(&examples, 1, digest).err().unwrap();
            assert_eq!(error.to_string(), "data:4: b is there twice");
        }
    }
}
