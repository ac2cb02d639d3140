//! What a task declares, and the tables that it fills and reads: here the data side.

mod example;
mod plan;

pub use example::{Example, FieldValue, Origin, Outputs, Parsed, Prediction, PredictionValue, Record, Sums};
pub use plan::{
    EarlyStopping, GenerationPlan, GenerationSettings, HeadKind, Sequence, Side, TargetText, TaskParameter,
    TaskPlan,
};
use serde::{Deserialize, Serialize};

/// Whether a split trains, is evaluated after each epoch, or is taken when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitUse {
    Train,
    Evaluate,
    Optional,
}

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// A record a line.
    Lines,
    /// A JSON object a line.
    JsonLines,
    /// Lines up to an empty one.
    Blocks,
    /// Lines from `#begin document` to `#end document`.
    Documents,
    /// A file is one record.
    Whole,
    /// A table with the columns' names in its first line.
    Csv,
    /// The same, separated by tabs, without quotation marks.
    Tsv,
    Parquet,
}

impl Container {
    /// All containers with their names in the contract.
    pub const NAMES: [(&'static str, Container); 8] = [
        ("lines", Container::Lines),
        ("json-lines", Container::JsonLines),
        ("blocks", Container::Blocks),
        ("documents", Container::Documents),
        ("whole", Container::Whole),
        ("csv", Container::Csv),
        ("tsv", Container::Tsv),
        ("parquet", Container::Parquet),
    ];

    pub fn from_name(name: &str) -> Option<Container> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, container)| *container)
    }

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

/// A file in which a split may be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePattern {
    pub pattern: String,
    pub container: Container,
}

/// A split of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    pub name: String,
    pub usage: SplitUse,
    /// Files to try, in order.
    pub files: Vec<FilePattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldType {
    Text,
    /// Any number of texts.
    Texts,
    /// With the names of the labels.
    Label(Vec<String>),
    /// Words, which may be a whole document.
    Words,
    /// A number for each word of a field.
    WordNumbers(String),
    /// Spans of the words of a field, each with a number.
    Spans(String),
}

impl FieldType {
    /// What such a field is, in a sentence.
    pub fn name(&self) -> &'static str {
        match self {
            FieldType::Text => "a text",
            FieldType::Texts => "a list of texts",
            FieldType::Label(_) => "a label",
            FieldType::Words => "words",
            FieldType::WordNumbers(_) => "numbers of words",
            FieldType::Spans(_) => "spans of words",
        }
    }
}

/// A typed column of the examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    pub kind: FieldType,
    /// Whether it is what should be predicted, which `predict` cannot read.
    pub gold: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PredictionType {
    /// A label of the inventory of a field.
    Label(String),
    Real,
    Text,
    /// Spans of the words of a field, each with a number.
    Spans(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictionColumn {
    pub name: String,
    pub kind: PredictionType,
}

/// How a value stands in a prediction file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A text, or a label by its name.
    Text,
    /// A number, or a label by its number.
    Number,
    /// A label called true or false.
    Boolean,
}

impl Form {
    /// All forms with their names in the contract.
    pub const NAMES: [(&'static str, Form); 3] =
        [("text", Form::Text), ("number", Form::Number), ("boolean", Form::Boolean)];
}

/// What a key of a prediction file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileValue {
    /// An input field, by its place.
    Field(usize),
    /// A prediction, by its place.
    Prediction(usize),
}

/// A file of predictions, for those who score them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictionFile {
    pub name: String,
    /// JSON lines or CSV.
    pub container: Container,
    pub columns: Vec<(String, FileValue, Form)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    pub higher_is_better: bool,
}

/// The data side of a task, known before any data is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub splits: Vec<Split>,
    /// Names and contents of small files with which a run is tried.
    #[serde(default)]
    pub samples: Vec<(String, String)>,
    pub fields: Vec<Field>,
    pub predictions: Vec<PredictionColumn>,
    #[serde(default)]
    pub prediction_files: Vec<PredictionFile>,
    /// Files made of the texts of a prediction: name, and the prediction's place.
    #[serde(default)]
    pub text_files: Vec<(String, usize)>,
    /// The field that identifies an example.
    #[serde(default)]
    pub id: Option<String>,
    pub statistics: Vec<String>,
    pub metrics: Vec<Metric>,
    /// The metric that chooses the best checkpoint.
    pub best: Option<String>,
}

impl Layout {
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    pub fn prediction(&self, name: &str) -> Option<usize> {
        self.predictions.iter().position(|column| column.name == name)
    }

    /// The names of the labels of a field.
    pub fn labels(&self, name: &str) -> Option<&[String]> {
        match &self.fields[self.field(name)?].kind {
            FieldType::Label(names) => Some(names),
            _ => None,
        }
    }

    /// The metric that chooses the best checkpoint.
    pub fn best_metric(&self) -> Option<&Metric> {
        self.metrics.iter().find(|metric| Some(&metric.name) == self.best.as_ref())
    }
}
