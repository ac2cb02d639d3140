//! A cell: one model, one task, one method, one seed.
//!
//! Plain data through which the command line and the session meet. A
//! [`CellSpec`] says all that a cell is; the parent writes it as JSON and a
//! child process trains it. A [`CellResult`] says what came of it. While it
//! trains, the session tells a [`Progress`] how far it is.

mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use host_engine::device::{Device, Precision, Target};
use host_engine::train::settings::TrainingSettings;
use host_ir::method::Counts;
use host_ir::settings::{Description, Values};
use serde::{Deserialize, Serialize};

use crate::confusion::Confusion;
pub use source::{Repository, Snapshot, Source};

/// The base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    pub path: Source,
    /// Its sizes and its tokenizer with random weights.
    pub reinitialise: bool,
}

/// The data, and files given for splits instead of those that the task names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    pub path: Source,
    /// By split, in the order of the config, relative to the path.
    pub files: Vec<(String, String)>,
    /// Records of a split that may be wrong and are left out.
    #[serde(default)]
    pub max_bad_records: u64,
    /// What becomes of sequences that are longer than the task or the model takes.
    #[serde(default)]
    pub too_long: TooLong,
}

/// What becomes of a sequence that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// It is cut, and counted.
    #[default]
    Cut,
    /// The cell does not start.
    Error,
}

impl DataSpec {
    /// Files by split, as the data are searched for.
    pub fn overrides(&self) -> BTreeMap<String, PathBuf> {
        self.files.iter().map(|(split, file)| (split.clone(), PathBuf::from(file))).collect()
    }
}

/// Where a plugin's component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Embedded,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Embedded => f.write_str("embedded"),
            Origin::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginKind {
    Method,
    Task,
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PluginKind::Method => "method",
            PluginKind::Task => "task",
        })
    }
}

/// An installed plugin, as the catalogue lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    pub kind: PluginKind,
    pub description: Description,
    /// blake3 of the component, in hexadecimal digits.
    pub digest: String,
    pub origin: Origin,
}

/// A plugin with all of its settings, defaults included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginSpec {
    pub name: String,
    pub digest: String,
    pub origin: Origin,
    /// An empty list or table has lost its type in JSON: resolve them by the
    /// plugin's description once more before they are used.
    pub settings: Values,
}

/// All that a cell is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellSpec {
    /// The name of the method's row in the comparison.
    pub label: String,
    pub model: ModelSpec,
    pub data: DataSpec,
    pub task: PluginSpec,
    pub method: PluginSpec,
    pub training: TrainingSettings,
    pub seed: u64,
    pub device: Device,
    pub precision: Precision,
    pub threads: usize,
}

impl CellSpec {
    /// What it trains on, and in what precision.
    pub fn target(&self) -> Target {
        Target::new(self.device, self.precision)
    }

    /// How the cell is called in sentences.
    pub fn title(&self) -> String {
        format!("{} (seed {})", self.label, self.seed)
    }
}

/// Digests of what a spec names by path, and the version of what computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Of the model's files that are read.
    pub model: String,
    /// Of the data files that are read, with their splits.
    pub data: String,
    /// Versions of the contract and of the engine, in words.
    pub program: String,
}

/// Metrics by name, in the order in which the task reports them. In JSON an
/// object; what is not finite is null there and undefined when read again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(pub Vec<(String, f64)>);

impl Metrics {
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

impl Serialize for Metrics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Metrics, D::Error> {
        let map = serde_json::Map::<String, serde_json::Value>::deserialize(deserializer)?;
        Ok(Metrics(map.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()))
    }
}

/// The metrics of one evaluated split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitMetrics {
    pub split: String,
    pub metrics: Metrics,
}

/// A bootstrap interval of 95%.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub metric: String,
    pub low: f64,
    pub high: f64,
}

/// How sure the scores of a split are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    pub split: String,
    /// What was drawn: the groups of the split.
    pub groups: u64,
    pub intervals: Vec<Interval>,
    /// The one label or text that was predicted for everything, if it was one.
    pub constant: Option<String>,
    /// One for each label that is predicted and has gold.
    #[serde(default)]
    pub confusions: Vec<Confusion>,
}

/// The metric that chooses the best checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BestMetric {
    pub split: String,
    pub name: String,
    pub higher_is_better: bool,
}

/// What one label predicted for everything comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The most frequent one in training.
    pub label: String,
    pub metrics: Vec<SplitMetrics>,
}

/// What one epoch came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epochs done, with the part of the last one.
    pub epoch: f64,
    /// Optimizer steps done.
    pub step: u64,
    /// Mean over the epoch.
    pub train_loss: Option<f64>,
    /// Of the evaluation after the epoch, if there was one.
    pub evaluations: Vec<SplitMetrics>,
    /// Whether it is the best so far by the task's metric.
    pub best: bool,
    /// Of training alone, since the start.
    pub training_seconds: f64,
}

/// The parts of a training before its last one, of a cell that was interrupted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlierParts {
    /// The steps after which each was over, in all.
    pub steps: Vec<u64>,
    /// Of all of them together; what was lost with a killed process is not known.
    pub training_seconds: f64,
    pub evaluation_seconds: f64,
    /// The largest one's.
    pub peak_memory_bytes: u64,
}

impl EarlierParts {
    fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// A training that was told to end, and has left a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was told to end")]
pub struct Interrupted;

/// What came of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    pub counts: Counts,
    /// Optimizer steps and rows (tokens and virtual tokens) of the training.
    pub steps: u64,
    pub tokens: u64,
    /// Of all parts of the training together, as its evaluations'.
    pub training_seconds: f64,
    pub evaluation_seconds: f64,
    #[serde(default, skip_serializing_if = "EarlierParts::is_empty")]
    pub earlier: EarlierParts,
    /// Loading both plugins, and asking both for their plans.
    pub plugin_load_seconds: f64,
    pub plugin_plan_seconds: f64,
    /// Of the best checkpoint, in the task's order of splits.
    pub metrics: Vec<SplitMetrics>,
    /// Of the same splits.
    #[serde(default)]
    pub confidence: Vec<Confidence>,
    /// The trivial baseline, of tasks that predict a label.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    pub best_metric: Option<BestMetric>,
    pub best_epoch: Option<f64>,
    pub epochs: Vec<EpochRecord>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// What will be trained, shown before it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub counts: Counts,
    /// Examples of each split.
    pub examples: Vec<(String, u64)>,
    /// Optimizer steps.
    pub steps: u64,
    pub best_metric: Option<BestMetric>,
    pub estimated_memory_bytes: u64,
    /// What computes, and the bytes of its memory that are free, where it is known.
    pub device: Option<(Device, Option<u64>)>,
    pub plugin_seconds: f64,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// The answer of `host plan`: the summary, and the whole plan as text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanReport {
    pub summary: Summary,
    pub text: String,
}

/// An optimizer step that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Counted from 1.
    pub step: u64,
    pub steps: u64,
    pub loss: f64,
    pub learning_rate: f64,
    /// Rows of this step's batch.
    pub tokens: u64,
    /// Steps that are done as well, and told right after this one.
    pub more: u64,
}

/// What a session tells while a cell trains. An error (a full disk) ends the
/// cell.
pub trait Progress {
    fn start(&mut self, summary: &Summary) -> Result<()>;
    /// Training begins after so many steps, which took so many seconds; of steps and
    /// epochs that were told after them nothing is to stay.
    fn begin(&mut self, steps: u64, seconds: f64) -> Result<()>;
    fn step(&mut self, step: Step) -> Result<()>;
    /// So many of the examples of a split are evaluated.
    fn evaluated(&mut self, split: &str, examples: u64, of: u64) -> Result<()>;
    fn epoch(&mut self, record: &EpochRecord) -> Result<()>;
    /// A sentence that the user should read.
    fn message(&mut self, sentence: &str) -> Result<()>;
    /// A checkpoint is written now, from which the steps that were told of are not told again.
    fn saved(&mut self) -> Result<()>;
    /// Whether the cell was told to end, to go on another time.
    fn interrupted(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a child reads means what its parent wrote, once the plugin's
    /// description has resolved it.
    #[test]
    fn empty_settings_survive_json() {
        use host_ir::settings::{Declaration, Setting, SettingType};
        let key = |key: &str, kind, default| Declaration {
            key: key.into(),
            kind,
            default,
            documentation: String::new(),
        };
        let keys = vec![
            key("texts", SettingType::Texts, Setting::Texts(vec!["a".into()])),
            key("numbers", SettingType::Numbers, Setting::Numbers(vec![("a".into(), 1.0)])),
            key("wholes", SettingType::Wholes, Setting::Wholes(vec![1])),
            key("text", SettingType::OptionalText, Setting::Text("a".into())),
            key("real", SettingType::Real { minimum: 0.0, maximum: 9.0 }, Setting::Real(1.0)),
        ];
        let description = Description { keys, ..Description::default() };
        let settings = Values::from([
            ("texts".to_string(), Setting::Texts(Vec::new())),
            ("numbers".to_string(), Setting::Numbers(Vec::new())),
            ("wholes".to_string(), Setting::Wholes(Vec::new())),
            ("text".to_string(), Setting::Absent),
            ("real".to_string(), Setting::Real(2.0)),
        ]);
        let read: Values = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(description.resolve(&read).unwrap(), settings);
    }

    /// An evaluation compares with what it reads.
    #[test]
    fn metrics_are_read_to_the_last_bit() {
        let values: Vec<f64> = (1..2000).map(|n| f64::from(n) / 2003.0 * 0.7).collect();
        let metrics = Metrics(values.iter().map(|value| (value.to_string(), *value)).collect());
        let read: Metrics = serde_json::from_str(&serde_json::to_string(&metrics).unwrap()).unwrap();
        assert_eq!(read, metrics);
    }

    #[test]
    fn metrics_keep_their_order_and_lose_what_is_undefined() {
        let metrics = Metrics(vec![("z".into(), 0.25), ("a".into(), f64::NAN), ("b".into(), 1.0)]);
        let json = serde_json::to_string(&metrics).unwrap();
        assert_eq!(json, r#"{"z":0.25,"a":null,"b":1.0}"#);
        let read: Metrics = serde_json::from_str(&json).unwrap();
        assert_eq!(read, Metrics(vec![("z".into(), 0.25), ("b".into(), 1.0)]));
    }
}
