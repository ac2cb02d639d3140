//! Values that are written once and read by their number: the examples of a split that is
//! evaluated, what the model says of them, and what is predicted. They lie in temporary
//! files where they are many, so that a split of any size takes the memory of a small one.

use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::dataset::DatasetError;
use crate::data::store::Store;

/// Bytes of an entry of the index.
const ENTRY: usize = 8;
/// Bytes that are read at a time.
const READ: usize = 1 << 16;

/// Values in the order in which they were added. JSON must give each back as it was: a
/// number with a point in it goes there as its bits.
#[derive(Debug)]
pub struct Kept<T> {
    /// Each value as JSON.
    values: Store,
    /// Where each ends, in eight bytes.
    ends: Store,
    kind: PhantomData<T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept { values: Store::default(), ends: Store::default(), kind: PhantomData }
    }
}

impl<T> Kept<T> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.ends.bytes() as usize / ENTRY
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a value.
    fn bytes(&self, number: usize) -> io::Result<Vec<u8>> {
        // Where the one before ends, of the first nowhere, and where it ends itself.
        let mut ends = [0; 2 * ENTRY];
        let (from, place) = if number == 0 { (ENTRY, 0) } else { (0, number - 1) };
        self.ends.read((place * ENTRY) as u64, &mut ends[from..])?;
        let [start, end] = [0, 1].map(|entry| u64::from_le_bytes(ends.as_chunks().0[entry]));
        let mut bytes = vec![0; (end - start) as usize];
        self.values.read(start, &mut bytes)?;
        Ok(bytes)
    }
}

impl<T: Serialize + DeserializeOwned> Kept<T> {
    /// Adds a value at the end.
    ///
    /// # Errors
    /// A folder for temporary files that takes none, or is full.
    pub fn add(&mut self, value: &T) -> Result<(), DatasetError> {
        self.values.append(&serde_json::to_vec(value).map_err(io::Error::from)?)?;
        Ok(self.ends.append(&self.values.bytes().to_le_bytes())?)
    }

    /// The value of a number, counted from 0.
    ///
    /// # Errors
    /// Reading from the temporary file; a number beyond the last.
    pub fn get(&self, number: usize) -> Result<T, DatasetError> {
        Ok(serde_json::from_slice(&self.bytes(number)?).map_err(io::Error::from)?)
    }

    /// Values from what [`Self::lines`] has given.
    ///
    /// # Errors
    /// A line that is no value; a folder for temporary files that takes none, or is full.
    pub fn from_lines(lines: impl BufRead) -> Result<Kept<T>, DatasetError> {
        let mut kept = Kept::default();
        for line in lines.lines() {
            kept.add(&serde_json::from_str(&line?).map_err(io::Error::from)?)?;
        }
        Ok(kept)
    }

    /// The values in their order, read in large parts.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, DatasetError>> + '_ {
        let values = self.each();
        values.map(|bytes| Ok(serde_json::from_slice(&bytes?).map_err(io::Error::from)?))
    }
}

impl<T> Kept<T> {
    /// Bytes of [`Self::lines`].
    pub fn line_bytes(&self) -> u64 {
        self.values.bytes() + self.len() as u64
    }

    /// The values in their order, each as a line of JSON with its end.
    pub fn lines(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> + '_ {
        self.each().map(|bytes| {
            let mut line = bytes?;
            line.push(b'\n');
            Ok(line)
        })
    }

    /// The bytes of the values in their order, read in large parts.
    fn each(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> + '_ {
        let [mut values, mut ends] =
            [&self.values, &self.ends].map(|store| BufReader::with_capacity(READ, store.reader()));
        let mut start = 0;
        (0..self.len()).map(move |_| {
            let mut end = [0; ENTRY];
            ends.read_exact(&mut end)?;
            let end = u64::from_le_bytes(end);
            let mut bytes = vec![0; (end - start) as usize];
            values.read_exact(&mut bytes)?;
            start = end;
            Ok(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{Example, FieldValue, Origin, Prediction, PredictionValue};

    use super::*;

    #[test]
    fn examples_and_predictions_come_back_as_they_were() {
        let mut examples = Kept::default();
        let mut predictions = Kept::<Prediction>::default();
        assert!(examples.is_empty());
        let reals = [0.1 + 0.2, -0.0, f64::MIN_POSITIVE / 3.0, f64::INFINITY, 1e300 / 7.0];
        let example = |number: usize| Example {
            origin: Origin { file: "a \"folder\"/ž".into(), line: number as u64 },
            values: vec![
                Some(FieldValue::Text(format!("line\n{number}\0\u{1f600}").repeat(number))),
                Some(FieldValue::Texts(vec!["a".into(), String::new()])),
                number.is_multiple_of(2).then_some(FieldValue::Label(number as u32)),
                Some(FieldValue::Words(vec!["Kdo".into(), "?".into()])),
                Some(FieldValue::WordNumbers(vec![0, u32::MAX])),
                Some(FieldValue::Spans(vec![[0, 1, 7]])),
            ],
        };
        let prediction = |number: usize| {
            vec![
                Some(PredictionValue::Real(reals[number % reals.len()])),
                None,
                Some(PredictionValue::Label(3)),
                Some(PredictionValue::Text("\t".into())),
                Some(PredictionValue::Spans(vec![[1, 2, 3]])),
            ]
        };
        for number in 0..20 {
            examples.add(&example(number)).unwrap();
            predictions.add(&prediction(number)).unwrap();
        }
        assert_eq!((examples.len(), predictions.len()), (20, 20));
        for number in [19, 0, 7, 8] {
            assert_eq!(examples.get(number), Ok(example(number)));
        }
        for (number, found) in predictions.iter().enumerate() {
            let (found, wanted) = (found.unwrap(), prediction(number));
            assert_eq!(found, wanted);
            let bits = |prediction: &Prediction| match prediction[0] {
                Some(PredictionValue::Real(real)) => real.to_bits(),
                _ => 0,
            };
            assert_eq!(bits(&found), bits(&wanted));
        }
        let lines = predictions.lines().collect::<Result<Vec<_>, _>>().unwrap().concat();
        assert_eq!(lines.len() as u64, predictions.line_bytes());
        let read = Kept::<Prediction>::from_lines(&lines[..]).unwrap();
        assert!(read.iter().eq(predictions.iter()) && read.len() == 20);
        assert!(Kept::<Prediction>::from_lines(&lines[..lines.len() - 3]).is_err());
        predictions.add(&vec![Some(PredictionValue::Real(f64::NAN))]).unwrap();
        assert!(
            matches!(predictions.get(20).unwrap()[0], Some(PredictionValue::Real(real)) if real.is_nan())
        );
        assert!(predictions.get(21).is_err());
    }

    /// However many values there are, what is in memory of them has a limit.
    #[test]
    fn many_values_take_the_memory_of_few() {
        let mut kept = Kept::default();
        let text = "a".repeat(1000);
        let mut most = 0;
        for _ in 0..20_000 {
            kept.add(&text).unwrap();
            most = most.max(kept.values.in_memory() + kept.ends.in_memory());
        }
        assert!(kept.values.bytes() > 20_000_000 && most < 2_200_000 + text.len(), "{most}");
        assert_eq!(kept.get(12_345), Ok(text));
    }
}
