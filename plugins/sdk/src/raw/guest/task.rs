//! Files, examples, and what a task plans.

use super::node;
use crate::bindings::task::peft::plugin::{
    example, field, generate, head, input, objective, sequence, source, words,
};

pub fn split_train(split: &str) {
    source::train(split)
}

pub fn split_evaluate(split: &str) {
    source::evaluate(split)
}

pub fn split_optional(split: &str) {
    source::optional(split)
}

pub fn split_file(split: &str, pattern: &str, container: &str) {
    source::file(split, pattern, container)
}

pub fn sample_file(name: &str, content: &str) {
    source::sample(name, content)
}

pub fn field_text(name: &str) {
    field::text(name)
}

pub fn field_texts(name: &str) {
    field::texts(name)
}

pub fn field_label(name: &str, names: &[String]) {
    field::label(name, names)
}

pub fn field_gold(name: &str) {
    field::gold(name)
}

pub fn field_names(name: &str) -> Vec<String> {
    field::names(name)
}

pub fn input_split() -> String {
    input::split()
}

pub fn input_container() -> String {
    input::container()
}

pub fn input_line(record: u32) -> String {
    input::line(record)
}

pub fn input_text(record: u32, path: &str) -> Result<String, String> {
    input::text(record, path)
}

pub fn input_whole(record: u32, path: &str) -> Result<i64, String> {
    input::whole(record, path)
}

pub fn input_flag(record: u32, path: &str) -> Result<bool, String> {
    input::flag(record, path)
}

pub fn input_has(record: u32, path: &str) -> bool {
    input::has(record, path)
}

pub fn input_length(record: u32, path: &str) -> Result<u32, String> {
    input::length(record, path)
}

pub fn skip(record: u32, reason: &str) {
    input::skip(record, reason)
}

pub fn reject(record: u32, sentence: &str) {
    input::reject(record, sentence)
}

pub fn add_example(record: u32) -> u32 {
    example::add(record)
}

pub fn put_text(at: u32, field: &str, text: &str) {
    example::put_text(at, field, text)
}

pub fn put_texts(at: u32, field: &str, texts: &[String]) {
    example::put_texts(at, field, texts)
}

pub fn put_rest(at: u32, field: &str, start: u32) {
    example::put_rest(at, field, start)
}

pub fn put_label(at: u32, field: &str, label: i64) {
    example::put_label(at, field, label)
}

pub fn put_label_name(at: u32, field: &str, name: &str) {
    example::put_label_name(at, field, name)
}

pub fn sequence(name: &str) -> u32 {
    sequence::new(name)
}

pub fn sequence_text(at: u32, field: &str) {
    sequence::text(at, field)
}

pub fn sequence_each(at: u32, field: &str) {
    sequence::each(at, field)
}

pub fn at_most(at: u32, tokens: u32) {
    sequence::at_most(at, tokens)
}

pub fn sequence_cut(at: u32, field: &str, side: &str) {
    sequence::cut(at, field, side)
}

pub fn sequence_windows(at: u32, stride: u32) {
    sequence::windows(at, stride)
}

pub fn mask_tokens(at: u32, probability: f64) {
    sequence::mask_tokens(at, probability)
}

pub fn shift_positions(at: u32, most: u32) {
    sequence::shift_positions(at, most)
}

pub fn target(at: u32, field: &str, tokens: u32) {
    sequence::target(at, field, tokens)
}

pub fn sequence_to_sequence(at: u32) -> u32 {
    head::sequence_to_sequence(at).id
}

pub fn target_tokens(at: u32) -> u32 {
    head::target_tokens(at).id
}

pub fn declare_generated(at: u32, name: &str) {
    generate::declare(at, name)
}

pub fn max_new_tokens(tokens: u32) {
    generate::max_new_tokens(tokens)
}

pub fn min_new_tokens(tokens: u32) {
    generate::min_new_tokens(tokens)
}

pub fn num_beams(beams: u32) {
    generate::num_beams(beams)
}

pub fn length_penalty(penalty: f64) {
    generate::length_penalty(penalty)
}

pub fn early_stopping(rule: &str) {
    generate::early_stopping(rule)
}

pub fn no_repeat_ngram_size(size: u32) {
    generate::no_repeat_ngram_size(size)
}

pub fn classification(at: u32, classes: u32) -> u32 {
    head::classification(at, classes).id
}

pub fn choice_head(at: u32, choices: u32) -> u32 {
    head::choice(at, choices).id
}

pub fn masked_language_model(at: u32) -> u32 {
    head::masked_language_model(at).id
}

pub fn masked_tokens(at: u32) -> u32 {
    head::masked_tokens(at).id
}

pub fn objective_label(field: &str) -> u32 {
    objective::label(field).id
}

pub fn objective_mean(value: u32) {
    objective::mean(node(value))
}

pub fn head_parameter(name: &str, initial: u32) -> u32 {
    head::parameter(name, node(initial)).id
}

pub fn words_field(name: &str) {
    words::field(name)
}

pub fn words_numbers(name: &str, of: &str) {
    words::numbers(name, of)
}

pub fn words_spans(name: &str, of: &str) {
    words::spans(name, of)
}

pub fn predicted_spans(name: &str, of: &str) {
    words::predicted_spans(name, of)
}

pub fn put_words(at: u32, field: &str, values: &[String]) {
    words::put(at, field, values)
}

pub fn put_word_numbers(at: u32, field: &str, numbers: &[u32]) {
    words::put_numbers(at, field, numbers)
}

pub fn put_spans(at: u32, field: &str, spans: &[(u32, u32, u32)]) {
    words::put_spans(at, field, spans)
}

pub fn read_words(at: u32, field: &str, shared: u32) {
    words::read(at, field, shared)
}

pub fn word_states(at: u32) -> u32 {
    words::states(at).id
}

pub fn numbers_of(field: &str) -> u32 {
    words::numbers_of(field).id
}

pub fn spans_of(field: &str, width: u32) -> u32 {
    words::spans_of(field, width).id
}

pub fn get_words(at: u32, field: &str) -> Vec<String> {
    words::get(at, field)
}

pub fn get_spans(at: u32, field: &str) -> Option<Vec<(u32, u32, u32)>> {
    words::get_spans(at, field)
}

pub fn set_predicted(at: u32, name: &str, spans: &[(u32, u32, u32)]) {
    words::set_predicted(at, name, spans)
}

pub fn get_predicted(at: u32, name: &str) -> Option<Vec<(u32, u32, u32)>> {
    words::get_predicted(at, name)
}

pub fn field_id(name: &str) {
    field::id(name)
}
