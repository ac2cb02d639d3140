//! Records, the examples that a task makes of them, and what it predicts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::record::NumberedSpan;

/// Where a record stands: file and line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub file: Arc<str>,
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a container yields: a line, a block of lines, a row of a table, a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// As it stands in the file; of a row of a table, its object as JSON.
    pub text: String,
    /// The object, of a container whose records have named fields.
    pub json: Option<serde_json::Value>,
    pub origin: Origin,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldValue {
    Text(String),
    Texts(Vec<String>),
    Label(u32),
    Words(Vec<String>),
    WordNumbers(Vec<u32>),
    Spans(Vec<NumberedSpan>),
}

/// One input of the model with what should come of it. Values stand in the
/// order of [`crate::task::Layout::fields`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub origin: Origin,
    pub values: Vec<Option<FieldValue>>,
}

impl Example {
    pub fn text(&self, field: usize) -> Option<&str> {
        self.text_value(field).map(String::as_str)
    }

    /// As [`Self::text`], as it is stored.
    pub fn text_value(&self, field: usize) -> Option<&String> {
        match self.values.get(field)? {
            Some(FieldValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Bytes of its texts, words and spans.
    pub fn bytes(&self) -> usize {
        let texts = self.values.iter().flatten();
        let bytes = |value: &FieldValue| match value {
            FieldValue::Text(text) => text.len(),
            FieldValue::Texts(texts) | FieldValue::Words(texts) => texts.iter().map(String::len).sum(),
            FieldValue::WordNumbers(numbers) => size_of_val(numbers.as_slice()),
            FieldValue::Spans(spans) => size_of_val(spans.as_slice()),
            FieldValue::Label(_) => 0,
        };
        texts.map(bytes).sum()
    }

    pub fn texts(&self, field: usize) -> Option<&[String]> {
        match self.values.get(field)? {
            Some(FieldValue::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    pub fn label(&self, field: usize) -> Option<u32> {
        match self.values.get(field)? {
            Some(FieldValue::Label(label)) => Some(*label),
            _ => None,
        }
    }
}

/// What `parse` made of a chunk of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub examples: Vec<Example>,
    /// Reasons of skipped records with their numbers.
    pub skipped: BTreeMap<String, u64>,
    /// Sentences about wrong records, with file and line.
    pub rejected: Vec<String>,
}

/// The value of a prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PredictionValue {
    Label(u32),
    Real(#[serde(with = "bits")] f64),
    Text(String),
    Spans(Vec<NumberedSpan>),
}

/// A number as its bits, of which no form of writing loses any.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        number.to_bits().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Predictions of one example, in the order of [`crate::task::Layout::predictions`].
pub type Prediction = Vec<Option<PredictionValue>>;

/// Outputs of the model for one example, in the order of [`crate::task::TaskPlan::outputs`].
pub type Outputs = Vec<Vec<f32>>;

/// Sums of one group or of a sample, by statistic and key.
pub type Sums = BTreeMap<(String, u64), f64>;
