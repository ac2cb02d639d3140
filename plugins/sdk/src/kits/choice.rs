//! Choosing one of several texts, as transformers' multiple-choice models do:
//! a question with each choice is a sequence of its own, and a softmax is taken
//! over the choices' numbers.

use crate::kits::{Kit, Submission, largest};
use crate::raw;

/// One answer of several for a question, by the model family's multiple-choice
/// head; accuracy chooses the best checkpoint.
pub struct Choice {
    answer: String,
    names: Vec<String>,
    questions: Vec<String>,
    choices: String,
    at_most: Option<u32>,
    submission: Option<Submission>,
}

impl Choice {
    /// The field of the answer, with the names of the choices in their order, and
    /// the field with the list of their texts.
    pub fn new(answer: &str, names: &[&str], choices: &str) -> Choice {
        Choice {
            answer: answer.into(),
            names: names.iter().map(|name| name.to_string()).collect(),
            questions: Vec::new(),
            choices: choices.into(),
            at_most: None,
            submission: None,
        }
    }

    /// A text that stands before each choice.
    pub fn after(mut self, field: &str) -> Choice {
        self.questions.push(field.into());
        self
    }

    /// The most tokens of a question with one choice.
    pub fn at_most(mut self, tokens: u32) -> Choice {
        self.at_most = Some(tokens);
        self
    }

    /// A file of predictions for those who score them.
    pub fn submitted_as(mut self, submission: Submission) -> Choice {
        self.submission = Some(submission);
        self
    }
}

impl Kit for Choice {
    fn layout(&self) {
        self.questions.iter().for_each(|field| raw::field_text(field));
        raw::field_texts(&self.choices);
        raw::field_label(&self.answer, &self.names);
        raw::field_gold(&self.answer);
        raw::prediction_label(&self.answer, &self.answer);
        self.submission.iter().for_each(|submission| submission.layout(&self.answer));
        ["right", "asked"].iter().for_each(|name| raw::statistic(name));
        raw::metric("accuracy", true);
        raw::best_metric("accuracy");
    }

    fn plan(&self) {
        let sequence = raw::sequence("input");
        self.questions.iter().for_each(|field| raw::sequence_text(sequence, field));
        raw::sequence_each(sequence, &self.choices);
        if let Some(tokens) = self.at_most {
            raw::at_most(sequence, tokens);
        }
        let logits = raw::choice_head(sequence, self.names.len() as u32);
        raw::objective_mean(raw::cross_entropy(logits, raw::objective_label(&self.answer)));
        raw::declare_output("logits", logits);
    }

    fn predict(&self, example: u32) {
        raw::set_label(example, &self.answer, largest(&raw::output_reals(example, "logits")));
    }

    fn score(&self, group: u32, example: u32) {
        // A question that nobody has answered was not answered right.
        let Some(gold) = raw::group_label(example, &self.answer) else { return };
        let right = raw::get_label(example, &self.answer) == Some(gold);
        raw::add_statistic(group, "right", 0, f64::from(u8::from(right)));
        raw::add_statistic(group, "asked", 0, 1.0);
    }

    fn measure(&self, sample: u32) {
        let asked = raw::sum_of(sample, "asked", 0);
        if asked > 0.0 {
            raw::set_metric(sample, "accuracy", raw::sum_of(sample, "right", 0) / asked);
        }
    }
}
