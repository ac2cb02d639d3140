//! How to train: the keys of transformers' TrainingArguments, with its names.

use serde::{Deserialize, Serialize};

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Down to 0 at the last step.
    #[default]
    Linear,
    Constant,
    /// Half a cosine, down to 0 at the last step.
    Cosine,
}

/// When a checkpoint is written from which an interrupted training goes on. One that is
/// told to end writes one whatever this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategy {
    No,
    /// After each epoch and its evaluation.
    #[default]
    Epoch,
    /// After every `save_steps` optimizer steps.
    Steps,
}

/// The settings of one training, all resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSettings {
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// That of what the task adds, its head; the same where it is not given.
    pub head_learning_rate: Option<f64>,
    pub num_train_epochs: f64,
    /// Optimizer steps in all; when given, it decides instead of the epochs.
    pub max_steps: Option<u64>,
    /// Examples of an effective batch.
    pub per_device_train_batch_size: u64,
    /// Tokens of an effective batch, special and virtual ones included: as many
    /// examples, in the epoch's order, as fit. Instead of a number of examples.
    pub train_batch_tokens: Option<u64>,
    /// Examples that are evaluated together.
    pub per_device_eval_batch_size: u64,
    /// Micro-batches of which an effective batch of
    /// `per_device_train_batch_size * gradient_accumulation_steps` is made.
    pub gradient_accumulation_steps: u64,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this Euclidean norm; 0 turns it off.
    pub max_grad_norm: f64,
    pub lr_scheduler_type: Schedule,
    /// Share of the steps over which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// Steps of the warm-up, instead of a share.
    pub warmup_steps: Option<u64>,
    /// Evaluations without a better metric after which training ends.
    pub early_stopping_patience: Option<u64>,
    /// Dropout of the base model, instead of what its config.json says.
    pub dropout: Option<f64>,
    /// Smaller micro-batches where memory would not suffice; the effective
    /// batch and the result stay the same.
    pub auto_find_batch_size: bool,
    #[serde(default)]
    pub save_strategy: SaveStrategy,
    /// Optimizer steps between two checkpoints, where steps decide.
    #[serde(default = "save_steps")]
    pub save_steps: u64,
}

impl TrainingSettings {
    /// Whether a checkpoint is due after so many steps.
    pub fn saves_after(&self, steps: u64) -> bool {
        self.save_strategy == SaveStrategy::Steps && steps.is_multiple_of(self.save_steps.max(1))
    }
}

/// The default of transformers.
fn save_steps() -> u64 {
    500
}

impl Default for TrainingSettings {
    /// The defaults of transformers' TrainingArguments, but for three that change no
    /// result: more examples are evaluated together, micro-batches fit the memory, and
    /// a checkpoint is written after each epoch.
    fn default() -> Self {
        TrainingSettings {
            learning_rate: 5e-5,
            head_learning_rate: None,
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 8,
            train_batch_tokens: None,
            per_device_eval_batch_size: 32,
            gradient_accumulation_steps: 1,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            lr_scheduler_type: Schedule::Linear,
            warmup_ratio: 0.0,
            warmup_steps: None,
            early_stopping_patience: None,
            dropout: None,
            auto_find_batch_size: true,
            save_strategy: SaveStrategy::Epoch,
            save_steps: save_steps(),
        }
    }
}
