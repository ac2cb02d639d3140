//! The model side of a task.

use serde::{Deserialize, Serialize};

use crate::graph::{Graph, NodeId, Op};
use crate::model::{ModelDescription, Parameter, Role};

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
