//! Kits: ready answers to everything but files and records.

mod choice;
mod submission;

use crate::metrics::Confusion;
use crate::raw;

pub use choice::Choice;
pub use submission::Submission;

/// The parts of a task that a kit answers.
pub trait Kit {
    /// Fields, predictions, statistics and metrics.
    fn layout(&self);
    /// Sequences, head, loss and outputs.
    fn plan(&self);
    /// Predictions of an example from the model's outputs.
    fn predict(&self, example: u32);
    /// Statistics of an example of a group.
    fn score(&self, group: u32, example: u32);
    /// Metrics of a sample.
    fn measure(&self, sample: u32);
}

/// One label for one text or a pair, by the model family's classification head;
/// accuracy chooses the best checkpoint.
pub struct Classification {
    label: String,
    names: Vec<String>,
    texts: Vec<String>,
    at_most: Option<u32>,
    windows: Option<(String, u32)>,
    positive: Option<usize>,
    submission: Option<Submission>,
}

const CLASSIFICATION_METRICS: [&str; 7] = [
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
];

impl Classification {
    /// The label's field, with the names of the classes in the order of their numbers.
    pub fn new(label: &str, names: &[&str]) -> Classification {
        let names = names.iter().map(|name| name.to_string()).collect();
        Classification {
            label: label.into(),
            names,
            texts: Vec::new(),
            at_most: None,
            windows: None,
            positive: None,
            submission: None,
        }
    }

    /// A text that is read; the second one makes a pair.
    pub fn of(mut self, field: &str) -> Classification {
        self.texts.push(field.into());
        self
    }

    /// The most tokens of a sequence.
    pub fn at_most(mut self, tokens: u32) -> Classification {
        self.at_most = Some(tokens);
        self
    }

    /// Only this text is cut; what is cut away is read in windows, each of which
    /// starts with the last `stride` tokens of the one before. All windows of an
    /// example learn its label; their probabilities' mean predicts it.
    pub fn windows(mut self, field: &str, stride: u32) -> Classification {
        self.windows = Some((field.into(), stride));
        self
    }

    /// A file of predictions for those who score them.
    pub fn submitted_as(mut self, submission: Submission) -> Classification {
        self.submission = Some(submission);
        self
    }

    /// The class of this number counts as positive: its precision, recall and F1
    /// are metrics too.
    pub fn positive(mut self, class: usize) -> Classification {
        self.positive = Some(class);
        self
    }
}

/// Metrics of the positive class.
const POSITIVE_METRICS: [&str; 3] = ["precision", "recall", "f1"];

/// The mean over windows of the probabilities of so many classes.
fn mean_probabilities(logits: &[f64], classes: usize) -> Vec<f64> {
    let mut mean = vec![0.0; classes];
    let windows = logits.chunks_exact(classes);
    let share = 1.0 / windows.len().max(1) as f64;
    for window in windows {
        let largest = window.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = window.iter().map(|logit| (logit - largest).exp()).sum();
        mean.iter_mut()
            .zip(window)
            .for_each(|(mean, logit)| *mean += share * (logit - largest).exp() / total);
    }
    mean
}

impl Kit for Classification {
    fn layout(&self) {
        self.texts.iter().for_each(|field| raw::field_text(field));
        raw::field_label(&self.label, &self.names);
        raw::field_gold(&self.label);
        raw::prediction_label(&self.label, &self.label);
        self.submission.iter().for_each(|submission| submission.layout(&self.label));
        raw::statistic("confusion");
        CLASSIFICATION_METRICS.iter().for_each(|metric| raw::metric(metric, true));
        if self.positive.is_some() {
            POSITIVE_METRICS.iter().for_each(|metric| raw::metric(metric, true));
        }
        raw::best_metric("accuracy");
    }

    fn plan(&self) {
        let sequence = raw::sequence("input");
        self.texts.iter().for_each(|field| raw::sequence_text(sequence, field));
        if let Some(tokens) = self.at_most {
            raw::at_most(sequence, tokens);
        }
        if let Some((field, stride)) = &self.windows {
            raw::sequence_cut(sequence, field, "end");
            raw::sequence_windows(sequence, *stride);
        }
        let logits = raw::classification(sequence, self.names.len() as u32);
        raw::objective_mean(raw::cross_entropy(logits, raw::objective_label(&self.label)));
        raw::declare_output("logits", logits);
    }

    fn predict(&self, example: u32) {
        raw::set_label(
            example,
            &self.label,
            largest(&mean_probabilities(&raw::output_reals(example, "logits"), self.names.len())),
        );
    }

    fn score(&self, group: u32, example: u32) {
        let Some(gold) = raw::group_label(example, &self.label) else { return };
        let key = Confusion::key(self.names.len(), gold, raw::get_label(example, &self.label));
        raw::add_statistic(group, "confusion", key, 1.0);
    }

    fn measure(&self, sample: u32) {
        let confusion = Confusion::new(self.names.len(), |key| raw::sum_of(sample, "confusion", key));
        // Without an example, nothing is defined.
        let Some(metrics) = confusion.metrics() else { return };
        let of_positive = self.positive.map(|class| confusion.binary(class));
        let named = CLASSIFICATION_METRICS.iter().zip(metrics);
        for (name, value) in named.chain(POSITIVE_METRICS.iter().zip(of_positive.into_iter().flatten())) {
            raw::set_metric(sample, name, value);
        }
    }
}

/// The place of the largest number; the first of equal ones, as argmax has it.
fn largest(numbers: &[f64]) -> u32 {
    let best = (0..numbers.len()).rev().max_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    best.unwrap_or(0) as u32
}

/// Masked-language modelling (Devlin et al. 2019, section 3.1): the loss over
/// the chosen tokens chooses the best checkpoint.
pub struct MaskedTokens {
    pub text: &'static str,
    pub at_most: u32,
    /// Share of the tokens that are chosen.
    pub probability: f64,
    /// The most places by which positions are shifted in training.
    pub shift_positions: u32,
}

impl Kit for MaskedTokens {
    fn layout(&self) {
        raw::field_text(self.text);
        ["loss", "tokens"].iter().for_each(|name| raw::prediction_real(name));
        ["loss", "tokens"].iter().for_each(|name| raw::statistic(name));
        raw::metric("loss", false);
        raw::metric("perplexity", false);
        raw::best_metric("loss");
    }

    fn plan(&self) {
        let sequence = raw::sequence("input");
        raw::sequence_text(sequence, self.text);
        raw::at_most(sequence, self.at_most);
        raw::mask_tokens(sequence, self.probability);
        if self.shift_positions > 0 {
            raw::shift_positions(sequence, self.shift_positions);
        }
        let losses = raw::cross_entropy(raw::masked_language_model(sequence), raw::masked_tokens(sequence));
        raw::objective_mean(losses);
        raw::declare_output("losses", losses);
    }

    fn predict(&self, example: u32) {
        let losses = raw::output_reals(example, "losses");
        raw::set_real(example, "loss", losses.iter().sum());
        raw::set_real(example, "tokens", losses.len() as f64);
    }

    fn score(&self, group: u32, example: u32) {
        for name in ["loss", "tokens"] {
            raw::add_statistic(group, name, 0, raw::get_real(example, name).unwrap_or(0.0));
        }
    }

    fn measure(&self, sample: u32) {
        let tokens = raw::sum_of(sample, "tokens", 0);
        if tokens > 0.0 {
            let loss = raw::sum_of(sample, "loss", 0) / tokens;
            raw::set_metric(sample, "loss", loss);
            raw::set_metric(sample, "perplexity", loss.exp());
        }
    }
}
