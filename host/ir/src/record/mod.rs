//! What the functions of the contract do: each call of a plugin becomes a part
//! of a plan, or is refused.
//!
//! The sandbox calls a [`Recorder`] for guests, and the plugin SDK calls it
//! natively in an author's tests, so that plans, checks and sentences are the
//! same in both.

mod data;
mod generate;
mod graph;
mod layout;
mod model;
mod planner;
mod results;
#[cfg(test)]
mod sequence_tests;
mod task;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::graph::{Graph, NodeId, Place};
use crate::method::MethodPlan;
use crate::model::{ModelDescription, ParameterId, SiteId};
use crate::settings::{Declaration, Description, Setting, SettingType, Values};
use crate::task::{Layout, TaskPlan};

pub use crate::select::NamesOrPattern;
pub use data::ParseCall;
pub use results::{MeasureCall, PredictCall, ScoreCall};
pub use words::NumberedSpan;

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// An operation of the contract that is wrong.
    #[error("{}{sentence}", place.as_ref().map_or(String::new(), |place| format!("{place}: ")))]
    Wrong { function: &'static str, sentence: String, place: Option<Place> },
    /// The user's value of a key, refused by the plugin or by its type.
    #[error("{sentence}")]
    Setting { key: String, sentence: String },
}

/// The exported call that is going on; it decides what may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Describe,
    /// A method's `plan`.
    MethodPlan,
    Layout,
    Parse,
    /// A task's `plan`.
    TaskPlan,
    Predict,
    Score,
    Measure,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Describe => "describe",
            Phase::MethodPlan | Phase::TaskPlan => "plan",
            Phase::Layout => "layout",
            Phase::Parse => "parse",
            Phase::Predict => "predict",
            Phase::Score => "score",
            Phase::Measure => "measure",
        }
    }
}

/// What a number that the host gave stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handle {
    Node(NodeId),
    Site(SiteId),
    Sequence(u32),
}

/// The ids that a tokenizer gives to a text, without special tokens.
pub type Tokenize = Arc<dyn Fn(&str) -> Vec<u32> + Send + Sync>;

/// The most nodes that one plan may have.
const MOST_NODES: usize = 1_000_000;
/// The most bytes that a plugin may log in one call.
const MOST_LOG: usize = 64 * 1024;

/// Takes down what a plugin says during one exported call.
#[derive(Default)]
pub struct Recorder {
    pub phase: Phase,
    pub place: Option<Place>,
    /// Lines for the run's log.
    pub log: Vec<String>,
    logged: usize,
    /// The message of a panic.
    pub panic: Option<String>,
    pub description: Description,
    /// The user's values, resolved; unused by `describe`.
    pub values: Values,
    pub model: Option<Arc<ModelDescription>>,
    pub tokenize: Option<Tokenize>,
    /// Examples of each split, for a task's `plan`.
    pub counts: BTreeMap<String, u64>,
    pub method: MethodPlan,
    pub layout: Layout,
    pub task: TaskPlan,
    pub parse: ParseCall,
    pub predict: PredictCall,
    pub score: ScoreCall,
    pub measure: MeasureCall,
    handles: Vec<Handle>,
    /// Handles of values that are the same whenever they are asked for.
    known: BTreeMap<(u8, u32), u32>,
}

/// The answer of a function of the contract.
pub type Answer<T> = Result<T, RecordError>;

impl Recorder {
    /// A recorder for a call of `describe`.
    pub fn describing() -> Recorder {
        Recorder::default()
    }

    /// A recorder for another call, with the plugin's description and the
    /// user's resolved values.
    pub fn calling(phase: Phase, description: Description, values: Values) -> Recorder {
        Recorder { phase, description, values, ..Recorder::default() }
    }

    /// `report.at`.
    pub fn at(&mut self, file: &str, line: u32) {
        self.place = Some(Place { file: file.into(), line });
    }

    /// `report.log`.
    pub fn log(&mut self, message: &str) {
        if self.logged + message.len() <= MOST_LOG {
            self.logged += message.len();
            self.log.push(message.to_string());
        }
    }

    /// `report.panicked`.
    pub fn panicked(&mut self, message: &str) {
        self.panic = Some(message.chars().take(4096).collect());
    }

    /// The error of a function, at the place last told.
    fn wrong(&self, function: &'static str, sentence: impl Into<String>) -> RecordError {
        RecordError::Wrong { function, sentence: sentence.into(), place: self.place.clone() }
    }

    /// Refuses a function outside the calls in which it may be used.
    fn only_in(&self, function: &'static str, phases: &[Phase]) -> Answer<()> {
        if phases.contains(&self.phase) {
            return Ok(());
        }
        let mut wanted: Vec<&str> = phases.iter().map(|phase| phase.name()).collect();
        wanted.dedup();
        Err(self.wrong(
            function,
            format!("{function} may be called in {}, not in {}", wanted.join(" and "), self.phase.name()),
        ))
    }

    fn give(&mut self, handle: Handle) -> u32 {
        self.handles.push(handle);
        self.handles.len() as u32 - 1
    }

    /// The graph of the plan that is being made.
    pub fn graph(&self) -> &Graph {
        match self.phase {
            Phase::TaskPlan => &self.task.graph,
            _ => &self.method.graph,
        }
    }

    fn graph_mut(&mut self) -> &mut Graph {
        match self.phase {
            Phase::TaskPlan => &mut self.task.graph,
            _ => &mut self.method.graph,
        }
    }

    /// The node that a number stands for.
    pub fn node(&self, function: &'static str, number: u32) -> Answer<NodeId> {
        match self.handles.get(number as usize) {
            Some(Handle::Node(node)) => Ok(*node),
            other => Err(self.misuse(function, "a value", number, other)),
        }
    }

    fn site(&self, function: &'static str, number: u32) -> Answer<SiteId> {
        match self.handles.get(number as usize) {
            Some(Handle::Site(site)) => Ok(*site),
            other => Err(self.misuse(function, "a site", number, other)),
        }
    }

    fn misuse(
        &self,
        function: &'static str,
        wanted: &str,
        number: u32,
        found: Option<&Handle>,
    ) -> RecordError {
        let found = match found {
            None => "was never given by the host".to_string(),
            Some(Handle::Node(node)) => format!("is a value {}", self.graph().shape(*node)),
            Some(Handle::Site(site)) => {
                format!("is the site {}", self.model.as_ref().map_or("", |model| &model.module(*site).name))
            }
            Some(Handle::Sequence(_)) => "is a sequence".to_string(),
        };
        self.wrong(function, format!("{function}: {wanted} is wanted here, and {number} {found}"))
    }

    fn model(&self, function: &'static str) -> Answer<Arc<ModelDescription>> {
        self.only_in(function, &[Phase::MethodPlan])?;
        self.model.clone().ok_or_else(|| self.wrong(function, format!("{function}: there is no model here")))
    }

    // Settings.

    /// `settings.plugin`.
    pub fn plugin(&mut self, name: &str, version: &str, summary: &str) {
        if self.phase == Phase::Describe {
            self.description.name = name.into();
            self.description.version = version.into();
            self.description.summary = summary.into();
        }
    }

    /// Every getter of `settings`: notes the key in `describe`, and answers
    /// the default there and the user's value elsewhere.
    pub fn setting(
        &mut self,
        key: &str,
        kind: SettingType,
        default: Setting,
        documentation: &str,
    ) -> Answer<Setting> {
        if self.phase == Phase::Describe {
            let value = default.clone();
            let declaration =
                Declaration { key: key.into(), kind, default, documentation: documentation.into() };
            match self.description.keys.iter_mut().find(|known| known.key == key) {
                Some(known) if *known == declaration => {}
                Some(_) => {
                    return Err(
                        self.wrong("settings", format!("the key `{key}` is declared twice, and differently"))
                    );
                }
                None => self.description.keys.push(declaration),
            }
            return Ok(value);
        }
        match self.values.get(key) {
            Some(value) => Ok(value.clone()),
            None => Err(self.wrong(
                "settings",
                format!(
                    "the key `{key}` is asked for in {} and not in describe, so that no user can set it",
                    self.phase.name()
                ),
            )),
        }
    }

    /// `settings.reject`.
    pub fn reject_setting(&self, key: &str, sentence: &str) -> RecordError {
        RecordError::Setting {
            key: key.into(),
            sentence: format!("`{key}` of {}: {sentence}", self.description.name),
        }
    }

    /// The base parameter that a node stands for.
    fn base_parameter(&self, node: NodeId) -> Option<ParameterId> {
        match self.graph().node(node).op {
            crate::graph::Op::Base(id) => Some(id),
            _ => None,
        }
    }
}
