//! Tasks over words, and heads that a task makes itself: the functions of the
//! contract's `words`, and what an own [`crate::kits::Kit`] needs beside them.

use std::panic::Location;

use crate::node::{Node, here};
use crate::raw;
use crate::task::Example;

/// A span with a number: first word, last word, number.
pub type NumberedSpan = (u32, u32, u32);

/// Declares a text.
pub fn text(name: &str) {
    raw::field_text(name);
}

/// Declares a text that identifies an example.
pub fn id(name: &str) {
    raw::field_text(name);
    raw::field_id(name);
}

/// Declares a text that is predicted, and a file of the texts of all examples.
pub fn predicted_text(name: &str, file: &str) {
    raw::prediction_text(name);
    raw::text_file(file, name);
}

/// Sets a predicted text; in `predict`.
pub fn predict_text(example: u32, name: &str, text: &str) {
    raw::set_text(example, name, text);
}

/// A text of the input.
///
/// # Errors
/// The example has none; with its file and line.
pub fn text_of(example: u32, field: &str) -> Result<String, String> {
    raw::group_text(example, field)
}

/// Declares a field of words.
pub fn field(name: &str) {
    raw::words_field(name);
}

/// Declares a number for each word of a field.
pub fn numbers(name: &str, of: &str) {
    raw::words_numbers(name, of);
}

/// Declares gold spans of the words of a field.
pub fn gold_spans(name: &str, of: &str) {
    raw::words_spans(name, of);
    raw::field_gold(name);
}

/// Declares spans that are predicted.
pub fn predicted_spans(name: &str, of: &str) {
    raw::predicted_spans(name, of);
}

impl Example {
    pub fn words(self, field: &str, words: &[String]) -> Example {
        raw::put_words(self.0, field, words);
        self
    }

    /// A number for each word.
    pub fn word_numbers(self, field: &str, numbers: &[u32]) -> Example {
        raw::put_word_numbers(self.0, field, numbers);
        self
    }

    pub fn spans(self, field: &str, spans: &[NumberedSpan]) -> Example {
        raw::put_spans(self.0, field, spans);
        self
    }
}

/// The last hidden states of the words of a field, [words, hidden size], of a
/// sequence in windows of at most so many tokens that share so many words.
#[track_caller]
pub fn states(field: &str, at_most: u32, shared: u32) -> Node {
    here(Location::caller());
    let sequence = raw::sequence("input");
    raw::read_words(sequence, field, shared);
    raw::at_most(sequence, at_most);
    Node(raw::word_states(sequence))
}

/// The numbers of a field, integers `[words]`.
#[track_caller]
pub fn numbers_of(field: &str) -> Node {
    here(Location::caller());
    Node(raw::numbers_of(field))
}

/// One more than the number of the span from word i to word i + j, or 0:
/// integers [words, width].
#[track_caller]
pub fn spans_of(field: &str, width: u32) -> Node {
    here(Location::caller());
    Node(raw::spans_of(field, width))
}

/// A parameter of the task's own head, with its start.
#[track_caller]
pub fn parameter(name: &str, initial: Node) -> Node {
    here(Location::caller());
    Node(raw::head_parameter(name, initial.0))
}

/// Adds the mean of a value's elements over the effective batch as a loss.
#[track_caller]
pub fn loss(value: Node) {
    here(Location::caller());
    raw::objective_mean(value.0);
}

/// Keeps a value of an evaluation under a name.
#[track_caller]
pub fn output(name: &str, value: Node) {
    here(Location::caller());
    raw::declare_output(name, value.0);
}

/// The elements of an output for an example; in `predict`.
pub fn reals(example: u32, name: &str) -> Vec<f64> {
    raw::output_reals(example, name)
}

/// The words of an example.
pub fn of(example: u32, field: &str) -> Vec<String> {
    raw::get_words(example, field)
}

/// Gold spans, where the example has them; in `score`.
pub fn spans(example: u32, field: &str) -> Option<Vec<NumberedSpan>> {
    raw::get_spans(example, field)
}

/// Sets predicted spans; in `predict`.
pub fn predict(example: u32, name: &str, spans: &[NumberedSpan]) {
    raw::set_predicted(example, name, spans);
}

/// Predicted spans; in `score`.
pub fn predicted(example: u32, name: &str) -> Option<Vec<NumberedSpan>> {
    raw::get_predicted(example, name)
}

/// Declares a metric of which more is better.
pub fn metric(name: &str) {
    raw::metric(name, true);
}

/// The metric that chooses the best checkpoint.
pub fn best_metric(name: &str) {
    raw::best_metric(name);
}

/// Declares sums by key.
pub fn statistic(name: &str) {
    raw::statistic(name);
}

/// Adds to a sum of a group; in `score`.
pub fn add(group: u32, statistic: &str, key: u64, value: f64) {
    raw::add_statistic(group, statistic, key, value);
}

/// A sum of a sample; in `measure`.
pub fn sum_of(sample: u32, statistic: &str, key: u64) -> f64 {
    raw::sum_of(sample, statistic, key)
}

/// Sets a metric of a sample; in `measure`.
pub fn set_metric(sample: u32, name: &str, value: f64) {
    raw::set_metric(sample, name, value);
}
