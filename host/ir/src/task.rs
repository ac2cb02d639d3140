//! What a task declares, and the tables that it fills and reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, NodeId, Op};
use crate::model::{ModelDescription, Parameter, Role};
use crate::record::NumberedSpan;

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

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Start,
    End,
}

/// A sequence that the model reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    pub name: String,
    /// Fields whose texts are its segments.
    pub texts: Vec<String>,
    /// The place among them of a list, each text of which makes a piece: a
    /// sequence of the example.
    #[serde(default)]
    pub each: Option<usize>,
    /// The pieces that every example must have, where a head chooses among them.
    #[serde(default)]
    pub choices: Option<u32>,
    /// The most tokens, special and virtual ones included.
    pub at_most: Option<u32>,
    /// The place among the texts of the only one that is cut, and where.
    #[serde(default)]
    pub cut: Option<(usize, Side)>,
    /// What would be cut away is read in windows that share so many tokens.
    #[serde(default)]
    pub windows: Option<u32>,
    /// The share of tokens that masked-language-model noise chooses.
    pub mask_probability: Option<f64>,
    /// The most places by which positions are shifted in training.
    pub shift_positions: Option<u32>,
    /// What a decoder should make of it.
    pub target: Option<TargetText>,
    /// The field whose words are read in windows, and the words that
    /// neighbouring windows share.
    #[serde(default)]
    pub words: Option<(String, u32)>,
}

/// The text that a sequence should become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetText {
    /// Its field.
    pub text: String,
    /// The most tokens, special ones included.
    pub at_most: Option<u32>,
}

/// When a search with several beams ends, as transformers' `early_stopping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyStopping {
    /// When a better sequence is unlikely.
    #[default]
    No,
    /// As soon as there are as many sequences as beams.
    Yes,
    /// When there can be no better sequence.
    Never,
}

/// How sequences are generated, by the names of transformers' `generate`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationSettings {
    pub max_new_tokens: u32,
    pub min_new_tokens: u32,
    /// 1 takes the likeliest token each time.
    pub num_beams: u32,
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
    /// 0 allows all repetitions.
    pub no_repeat_ngram_size: u32,
    /// Without them, what the model's own config says.
    pub forced_bos_token_id: Option<u32>,
    pub forced_eos_token_id: Option<u32>,
}

impl Default for GenerationSettings {
    fn default() -> GenerationSettings {
        GenerationSettings {
            max_new_tokens: 64,
            min_new_tokens: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            no_repeat_ngram_size: 0,
            forced_bos_token_id: None,
            forced_eos_token_id: None,
        }
    }
}

/// A parameter of the task's own head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskParameter {
    pub name: String,
    /// Its start, which depends on no example.
    pub initial: NodeId,
}

/// The head that a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// The family's sequence classification head with so many classes.
    Classification {
        classes: u32,
    },
    /// The family's token classification head with so many classes.
    TokenClassification {
        classes: u32,
    },
    /// The family's multiple-choice head: one logit a sequence, by which an
    /// example chooses among its pieces.
    MultipleChoice,
    MaskedLanguageModel,
    /// The family's decoder with its language-model head.
    SequenceToSequence,
}

/// The model side of a task: sequences, head, loss and outputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskPlan {
    pub graph: Graph,
    pub sequences: Vec<Sequence>,
    pub head: Option<HeadKind>,
    /// Of the head that the task makes itself.
    #[serde(default)]
    pub parameters: Vec<TaskParameter>,
    /// Values whose mean over the effective batch is a loss; losses add up.
    pub losses: Vec<NodeId>,
    pub outputs: Vec<(String, NodeId)>,
    /// What is generated in an evaluation.
    #[serde(default)]
    pub generation: Option<GenerationPlan>,
}

/// A text that the decoder says for each evaluated example.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationPlan {
    /// The name by which the task reads the text.
    pub name: String,
    pub settings: GenerationSettings,
}

impl TaskPlan {
    /// Adds the parameters of the task's own head to a model's. Their roles follow
    /// from their names, as those of checkpoints do.
    pub fn add_head_to(&self, model: &mut ModelDescription) {
        for parameter in &self.parameters {
            let sizes = self.graph.shape(parameter.initial).sizes().unwrap_or_default();
            let role =
                match (parameter.name.to_lowercase().contains("norm"), parameter.name.ends_with("bias")) {
                    (true, true) => Role::NormBias,
                    (true, false) => Role::NormWeight,
                    (false, true) => Role::Bias,
                    (false, false) => Role::Weight,
                };
            model.parameters.push(Parameter {
                name: parameter.name.clone(),
                shape: sizes.into_iter().map(|size| size as u32).collect(),
                role,
                head: true,
            });
        }
    }

    /// Whether its expressions run over whole examples, so that a batch can be
    /// one example only: they read words.
    pub fn reads_examples_alone(&self) -> bool {
        self.graph.nodes.iter().any(|node| matches!(node.op, Op::WordStates(_)))
    }
}

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
/// order of [`Layout::fields`].
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
    Real(f64),
    Text(String),
    Spans(Vec<NumberedSpan>),
}

/// Predictions of one example, in the order of [`Layout::predictions`].
pub type Prediction = Vec<Option<PredictionValue>>;

/// Outputs of the model for one example, in the order of [`TaskPlan::outputs`].
pub type Outputs = Vec<Vec<f32>>;

/// Sums of one group or of a sample, by statistic and key.
pub type Sums = BTreeMap<(String, u64), f64>;
