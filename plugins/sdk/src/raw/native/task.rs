//! Files, examples, and what a task plans.

use crate::testing::recorded;
use host_ir::record::NumberedSpan;
use host_ir::task::{FieldType, SplitUse};

fn numbered(spans: &[(u32, u32, u32)]) -> Vec<NumberedSpan> {
    spans.iter().map(|&(first, last, number)| [first, last, number]).collect()
}

fn tuples(spans: Option<Vec<NumberedSpan>>) -> Option<Vec<(u32, u32, u32)>> {
    spans.map(|spans| spans.into_iter().map(|[first, last, number]| (first, last, number)).collect())
}

pub fn split_train(split: &str) {
    recorded(|r| r.split(split, SplitUse::Train))
}

pub fn split_evaluate(split: &str) {
    recorded(|r| r.split(split, SplitUse::Evaluate))
}

pub fn split_optional(split: &str) {
    recorded(|r| r.split(split, SplitUse::Optional))
}

pub fn split_file(split: &str, pattern: &str, container: &str) {
    recorded(|r| r.file(split, pattern, container))
}

pub fn sample_file(name: &str, content: &str) {
    recorded(|r| r.sample(name, content))
}

pub fn field_text(name: &str) {
    recorded(|r| r.field(name, FieldType::Text))
}

pub fn field_texts(name: &str) {
    recorded(|r| r.field(name, FieldType::Texts))
}

pub fn field_label(name: &str, names: &[String]) {
    recorded(|r| r.field(name, FieldType::Label(names.to_vec())))
}

pub fn field_gold(name: &str) {
    recorded(|r| r.gold(name))
}

pub fn field_names(name: &str) -> Vec<String> {
    recorded(|r| r.names(name))
}

pub fn input_split() -> String {
    recorded(|r| r.input_split())
}

pub fn input_container() -> String {
    recorded(|r| r.input_container())
}

pub fn input_line(record: u32) -> String {
    recorded(|r| r.input_line(record))
}

pub fn input_text(record: u32, path: &str) -> Result<String, String> {
    recorded(|r| r.input_text(record, path))
}

pub fn input_whole(record: u32, path: &str) -> Result<i64, String> {
    recorded(|r| r.input_whole(record, path))
}

pub fn input_flag(record: u32, path: &str) -> Result<bool, String> {
    recorded(|r| r.input_flag(record, path))
}

pub fn input_has(record: u32, path: &str) -> bool {
    recorded(|r| r.input_has(record, path))
}

pub fn input_length(record: u32, path: &str) -> Result<u32, String> {
    recorded(|r| r.input_length(record, path))
}

pub fn skip(record: u32, reason: &str) {
    recorded(|r| r.skip(record, reason))
}

pub fn reject(record: u32, sentence: &str) {
    recorded(|r| r.reject(record, sentence))
}

pub fn add_example(record: u32) -> u32 {
    recorded(|r| r.add_example(record))
}

pub fn put_text(at: u32, field: &str, text: &str) {
    recorded(|r| r.put_text(at, field, text))
}

pub fn put_texts(at: u32, field: &str, texts: &[String]) {
    recorded(|r| r.put_texts(at, field, texts.to_vec()))
}

pub fn put_rest(at: u32, field: &str, start: u32) {
    recorded(|r| r.put_rest(at, field, start))
}

pub fn put_label(at: u32, field: &str, label: i64) {
    recorded(|r| r.put_label(at, field, label))
}

pub fn put_label_name(at: u32, field: &str, name: &str) {
    recorded(|r| r.put_label_name(at, field, name))
}

pub fn sequence(name: &str) -> u32 {
    recorded(|r| r.sequence(name))
}

pub fn sequence_text(at: u32, field: &str) {
    recorded(|r| r.sequence_text(at, field))
}

pub fn sequence_each(at: u32, field: &str) {
    recorded(|r| r.sequence_each(at, field))
}

pub fn at_most(at: u32, tokens: u32) {
    recorded(|r| r.at_most(at, tokens))
}

pub fn sequence_cut(at: u32, field: &str, side: &str) {
    recorded(|r| r.sequence_cut(at, field, side))
}

pub fn sequence_windows(at: u32, stride: u32) {
    recorded(|r| r.sequence_windows(at, stride))
}

pub fn mask_tokens(at: u32, probability: f64) {
    recorded(|r| r.mask_tokens(at, probability))
}

pub fn shift_positions(at: u32, most: u32) {
    recorded(|r| r.shift_positions(at, most))
}

pub fn target(at: u32, field: &str, tokens: u32) {
    recorded(|r| r.target(at, field, tokens))
}

pub fn sequence_to_sequence(at: u32) -> u32 {
    recorded(|r| r.sequence_to_sequence(at))
}

pub fn target_tokens(at: u32) -> u32 {
    recorded(|r| r.target_tokens(at))
}

pub fn declare_generated(at: u32, name: &str) {
    recorded(|r| r.declare_generated(at, name))
}

pub fn max_new_tokens(tokens: u32) {
    recorded(|r| r.max_new_tokens(tokens))
}

pub fn min_new_tokens(tokens: u32) {
    recorded(|r| r.min_new_tokens(tokens))
}

pub fn num_beams(beams: u32) {
    recorded(|r| r.num_beams(beams))
}

pub fn length_penalty(penalty: f64) {
    recorded(|r| r.length_penalty(penalty))
}

pub fn early_stopping(rule: &str) {
    recorded(|r| r.early_stopping(rule))
}

pub fn no_repeat_ngram_size(size: u32) {
    recorded(|r| r.no_repeat_ngram_size(size))
}

pub fn classification(at: u32, classes: u32) -> u32 {
    recorded(|r| r.classification(at, classes))
}

pub fn choice_head(at: u32, choices: u32) -> u32 {
    recorded(|r| r.choice_head(at, choices))
}

pub fn masked_language_model(at: u32) -> u32 {
    recorded(|r| r.masked_language_model(at))
}

pub fn masked_tokens(at: u32) -> u32 {
    recorded(|r| r.masked_tokens(at))
}

pub fn objective_label(field: &str) -> u32 {
    recorded(|r| r.objective_label(field))
}

pub fn objective_mean(value: u32) {
    recorded(|r| r.objective_mean(value))
}

pub fn head_parameter(name: &str, initial: u32) -> u32 {
    recorded(|r| r.head_parameter(name, initial))
}

pub fn words_field(name: &str) {
    recorded(|r| r.field(name, FieldType::Words))
}

pub fn words_numbers(name: &str, of: &str) {
    recorded(|r| r.field_over_words(name, of, FieldType::WordNumbers(of.into())))
}

pub fn words_spans(name: &str, of: &str) {
    recorded(|r| r.field_over_words(name, of, FieldType::Spans(of.into())))
}

pub fn predicted_spans(name: &str, of: &str) {
    recorded(|r| r.predicted_spans(name, of))
}

pub fn put_words(at: u32, field: &str, values: &[String]) {
    recorded(|r| r.put_words(at, field, values.to_vec()))
}

pub fn put_word_numbers(at: u32, field: &str, numbers: &[u32]) {
    recorded(|r| r.put_word_numbers(at, field, numbers))
}

pub fn put_spans(at: u32, field: &str, spans: &[(u32, u32, u32)]) {
    recorded(|r| r.put_spans(at, field, numbered(spans)))
}

pub fn read_words(at: u32, field: &str, shared: u32) {
    recorded(|r| r.sequence_words(at, field, shared))
}

pub fn word_states(at: u32) -> u32 {
    recorded(|r| r.word_states(at))
}

pub fn numbers_of(field: &str) -> u32 {
    recorded(|r| r.word_numbers(field))
}

pub fn spans_of(field: &str, width: u32) -> u32 {
    recorded(|r| r.span_numbers(field, width))
}

pub fn get_words(at: u32, field: &str) -> Vec<String> {
    recorded(|r| r.group_words(at, field))
}

pub fn get_spans(at: u32, field: &str) -> Option<Vec<(u32, u32, u32)>> {
    tuples(recorded(|r| r.group_spans(at, field)))
}

pub fn set_predicted(at: u32, name: &str, spans: &[(u32, u32, u32)]) {
    recorded(|r| r.set_spans(at, name, numbered(spans)))
}

pub fn get_predicted(at: u32, name: &str) -> Option<Vec<(u32, u32, u32)>> {
    tuples(recorded(|r| r.get_spans(at, name)))
}

pub fn field_id(name: &str) {
    recorded(|r| r.id_field(name))
}
