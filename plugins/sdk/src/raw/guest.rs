//! On wasm32: the host's functions. A table, one line a function.

use super::Selection;
use crate::bindings::method::peft::plugin::graph::Node;
use crate::bindings::method::peft::plugin::model::Site;
use crate::bindings::method::peft::plugin::settings::Selection as Wire;
use crate::bindings::method::peft::plugin::{graph, model, planner, report, settings};
use crate::bindings::task::peft::plugin::metric as metric_functions;
use crate::bindings::task::peft::plugin::{
    example, field, generate, group, head, input, objective, output, prediction, sequence, source, statistic,
    words,
};

fn node(id: u32) -> Node {
    Node { id }
}

fn nodes(ids: &[u32]) -> Vec<Node> {
    ids.iter().map(|&id| Node { id }).collect()
}

fn site(id: u32) -> Site {
    Site { id }
}

fn wire(selection: &Selection) -> Wire {
    Wire { is_pattern: selection.is_pattern, values: selection.values.clone() }
}

pub fn at(file: &str, line: u32) {
    report::at(file, line)
}

pub fn tell(message: &str) {
    report::log(message)
}

pub fn whole(key: &str, default: i64, minimum: i64, maximum: i64, documentation: &str) -> i64 {
    settings::whole(key, default, minimum, maximum, documentation)
}

pub fn real(key: &str, default: f64, minimum: f64, maximum: f64, documentation: &str) -> f64 {
    settings::real(key, default, minimum, maximum, documentation)
}

pub fn boolean(key: &str, default: bool, documentation: &str) -> bool {
    settings::boolean(key, default, documentation)
}

pub fn text(key: &str, default: &str, documentation: &str) -> String {
    settings::text(key, default, documentation)
}

pub fn optional_text(key: &str, documentation: &str) -> Option<String> {
    settings::optional_text(key, documentation)
}

pub fn choice(key: &str, default: &str, options: &[String], documentation: &str) -> String {
    settings::choice(key, default, options, documentation)
}

pub fn texts(key: &str, default: &[String], documentation: &str) -> Vec<String> {
    settings::texts(key, default, documentation)
}

pub fn wholes(key: &str, default: &[i64], documentation: &str) -> Vec<i64> {
    settings::wholes(key, default, documentation)
}

pub fn numbers(key: &str, documentation: &str) -> Vec<(String, f64)> {
    settings::numbers(key, documentation)
}

pub fn names_or_pattern(key: &str, default: &Selection, documentation: &str) -> Selection {
    let answer = settings::names_or_pattern(key, &wire(default), documentation);
    Selection { is_pattern: answer.is_pattern, values: answer.values }
}

pub fn plugin(name: &str, version: &str, summary: &str) {
    settings::plugin(name, version, summary)
}

pub fn reject_setting(key: &str, sentence: &str) {
    settings::reject(key, sentence)
}

pub fn shape(value: u32) -> Vec<u32> {
    graph::shape(node(value))
}

pub fn scalar(value: f64) -> u32 {
    graph::scalar(value).id
}

pub fn constant(shape: &[u32], values: &[f64]) -> u32 {
    graph::constant(shape, values).id
}

pub fn integers(shape: &[u32], values: &[i32]) -> u32 {
    graph::integers(shape, values).id
}

pub fn full(shape: &[u32], value: f64) -> u32 {
    graph::full(shape, value).id
}

pub fn eye(size: u32) -> u32 {
    graph::eye(size).id
}

pub fn uniform(shape: &[u32], low: f64, high: f64, key: Option<&str>) -> u32 {
    graph::uniform(shape, low, high, key).id
}

pub fn normal(shape: &[u32], mean: f64, deviation: f64, key: Option<&str>) -> u32 {
    graph::normal(shape, mean, deviation, key).id
}

pub fn draw(count: u32, bound: u32, key: Option<&str>) -> u32 {
    graph::draw(count, bound, key).id
}

pub fn add(a: u32, b: u32) -> u32 {
    graph::add(node(a), node(b)).id
}

pub fn subtract(a: u32, b: u32) -> u32 {
    graph::subtract(node(a), node(b)).id
}

pub fn multiply(a: u32, b: u32) -> u32 {
    graph::multiply(node(a), node(b)).id
}

pub fn divide(a: u32, b: u32) -> u32 {
    graph::divide(node(a), node(b)).id
}

pub fn maximum(a: u32, b: u32) -> u32 {
    graph::maximum(node(a), node(b)).id
}

pub fn minimum(a: u32, b: u32) -> u32 {
    graph::minimum(node(a), node(b)).id
}

pub fn exp(value: u32) -> u32 {
    graph::exp(node(value)).id
}

pub fn log(value: u32) -> u32 {
    graph::log(node(value)).id
}

pub fn sqrt(value: u32) -> u32 {
    graph::sqrt(node(value)).id
}

pub fn abs(value: u32) -> u32 {
    graph::abs(node(value)).id
}

pub fn tanh(value: u32) -> u32 {
    graph::tanh(node(value)).id
}

pub fn sigmoid(value: u32) -> u32 {
    graph::sigmoid(node(value)).id
}

pub fn relu(value: u32) -> u32 {
    graph::relu(node(value)).id
}

pub fn gelu(value: u32) -> u32 {
    graph::gelu(node(value)).id
}

pub fn silu(value: u32) -> u32 {
    graph::silu(node(value)).id
}

pub fn affine(value: u32, factor: f64, offset: f64) -> u32 {
    graph::affine(node(value), factor, offset).id
}

pub fn power(value: u32, exponent: f64) -> u32 {
    graph::power(node(value), exponent).id
}

pub fn permute(value: u32, axes: &[u32]) -> u32 {
    graph::permute(node(value), axes).id
}

pub fn transpose(value: u32) -> u32 {
    graph::transpose(node(value)).id
}

pub fn reshape(value: u32, shape: &[u32]) -> u32 {
    graph::reshape(node(value), shape).id
}

pub fn slice(value: u32, axis: i32, start: u32, length: u32) -> u32 {
    graph::slice(node(value), axis, start, length).id
}

pub fn concat(values: &[u32], axis: i32) -> u32 {
    graph::concat(&nodes(values), axis).id
}

pub fn matmul(a: u32, b: u32) -> u32 {
    graph::matmul(node(a), node(b)).id
}

pub fn sum(value: u32, axes: &[i32], keep: bool) -> u32 {
    graph::sum(node(value), axes, keep).id
}

pub fn mean(value: u32, axes: &[i32], keep: bool) -> u32 {
    graph::mean(node(value), axes, keep).id
}

pub fn norm(value: u32, axes: &[i32], keep: bool) -> u32 {
    graph::norm(node(value), axes, keep).id
}

pub fn deviation(value: u32, axes: &[i32], keep: bool) -> u32 {
    graph::deviation(node(value), axes, keep).id
}

pub fn log_sum_exp(value: u32, axis: i32, keep: bool) -> u32 {
    graph::log_sum_exp(node(value), axis, keep).id
}

pub fn largest_over(value: u32, axis: i32, keep: bool) -> u32 {
    graph::largest_over(node(value), axis, keep).id
}

pub fn positions(value: u32, axis: i32) -> u32 {
    graph::positions(node(value), axis).id
}

pub fn quotient(value: u32, divisor: u32) -> u32 {
    graph::quotient(node(value), divisor).id
}

pub fn remainder(value: u32, divisor: u32) -> u32 {
    graph::remainder(node(value), divisor).id
}

pub fn equal(a: u32, b: u32) -> u32 {
    graph::equal(node(a), node(b)).id
}

pub fn less(a: u32, b: u32) -> u32 {
    graph::less(node(a), node(b)).id
}

pub fn shift(value: u32, by: i32) -> u32 {
    graph::shift(node(value), by).id
}

pub fn largest(value: u32, thousandths: u32) -> u32 {
    graph::largest(node(value), thousandths).id
}

pub fn arg_max(value: u32, axis: i32) -> u32 {
    graph::arg_max(node(value), axis).id
}

pub fn elements(value: u32, places: u32) -> u32 {
    graph::elements(node(value), node(places)).id
}

pub fn softmax(value: u32, axis: i32) -> u32 {
    graph::softmax(node(value), axis).id
}

pub fn log_softmax(value: u32, axis: i32) -> u32 {
    graph::log_softmax(node(value), axis).id
}

pub fn rows(table: u32, indices: u32) -> u32 {
    graph::rows(node(table), node(indices)).id
}

pub fn cross_entropy(logits: u32, labels: u32) -> u32 {
    graph::cross_entropy(node(logits), node(labels)).id
}

pub fn detach(value: u32) -> u32 {
    graph::detach(node(value)).id
}

pub fn dropout(value: u32, probability: f64) -> u32 {
    graph::dropout(node(value), probability).id
}

pub fn training(training: u32, evaluation: u32) -> u32 {
    graph::training(node(training), node(evaluation)).id
}

pub fn architecture() -> String {
    model::architecture()
}

pub fn fact(key: &str) -> Option<u64> {
    model::fact(key)
}

pub fn sites(kind: &str) -> Vec<u32> {
    model::sites(kind).into_iter().map(|site| site.id).collect()
}

pub fn select(
    kind: &str,
    targets: &Selection,
    exclude: &Selection,
    layers: &[u32],
    patterns: &[String],
) -> Vec<u32> {
    let sites = model::select(kind, &wire(targets), &wire(exclude), layers, patterns);
    sites.into_iter().map(|site| site.id).collect()
}

pub fn lookup(at: u32, keys: &[String]) -> Option<u32> {
    model::lookup(site(at), keys)
}

pub fn site_name(at: u32) -> String {
    model::name(site(at))
}

pub fn site_layer(at: u32) -> Option<u32> {
    model::layer(site(at))
}

pub fn site_inputs(at: u32) -> u32 {
    model::inputs(site(at))
}

pub fn site_outputs(at: u32) -> u32 {
    model::outputs(site(at))
}

pub fn site_input(at: u32) -> u32 {
    model::input(site(at)).id
}

pub fn site_output(at: u32) -> u32 {
    model::output(site(at)).id
}

pub fn site_weight(at: u32) -> u32 {
    model::weight(site(at)).id
}

pub fn site_bias(at: u32) -> Option<u32> {
    model::bias(site(at)).map(|node| node.id)
}

pub fn parameters(role: &str) -> Vec<u32> {
    model::parameters(role).into_iter().map(|node| node.id).collect()
}

pub fn parameters_matching(pattern: &str) -> Vec<u32> {
    model::parameters_matching(pattern).into_iter().map(|node| node.id).collect()
}

pub fn parameter_name(parameter: u32) -> String {
    model::parameter_name(node(parameter))
}

pub fn word_embeddings() -> u32 {
    model::word_embeddings().id
}

pub fn tokenize(text: &str) -> Vec<u32> {
    model::tokenize(text)
}

pub fn train(parameter: u32) {
    planner::train(node(parameter))
}

pub fn freeze_head() {
    planner::freeze_head()
}

pub fn parameter(owner: Option<u32>, name: &str, initial: u32) -> u32 {
    planner::parameter(owner.map(site), name, node(initial)).id
}

pub fn frozen(owner: Option<u32>, name: &str, initial: u32) -> u32 {
    planner::frozen(owner.map(site), name, node(initial)).id
}

pub fn replace_input(at: u32, value: u32) {
    planner::replace_input(site(at), node(value))
}

pub fn replace_output(at: u32, value: u32) {
    planner::replace_output(site(at), node(value))
}

pub fn replace_weight(at: u32, value: u32) {
    planner::replace_weight(site(at), node(value))
}

pub fn change_base(at: u32, value: u32) {
    planner::change_base(site(at), node(value))
}

pub fn merge_as(at: u32, value: u32) {
    planner::merge_as(site(at), node(value))
}

pub fn merge_bias_as(at: u32, value: u32) {
    planner::merge_bias_as(site(at), node(value))
}

pub fn replace_output_at(at: u32, value: u32, first: u32, last: u32) {
    planner::replace_output_at(site(at), node(value), first, last)
}

pub fn prompt(embeddings: u32) {
    planner::prompt(node(embeddings))
}

pub fn prefix(at: u32, keys: u32, values: u32) {
    planner::prefix(site(at), node(keys), node(values))
}

pub fn add_loss(value: u32) {
    planner::add_loss(node(value))
}

pub fn learning_rate(parameter: u32, factor: f64) {
    planner::learning_rate(node(parameter), factor)
}

pub fn weight_decay(parameter: u32, decay: f64) {
    planner::weight_decay(node(parameter), decay)
}

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

pub fn output_text(at: u32, name: &str) -> String {
    output::text(at, name)
}

pub fn group_text(at: u32, field: &str) -> Result<String, String> {
    group::text(at, field)
}

pub fn prediction_text(name: &str) {
    prediction::text(name)
}

pub fn set_text(at: u32, name: &str, value: &str) {
    prediction::set_text(at, name, value)
}

pub fn get_text(at: u32, name: &str) -> Option<String> {
    prediction::get_text(at, name)
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

pub fn declare_output(name: &str, value: u32) {
    output::declare(name, node(value))
}

pub fn output_reals(at: u32, name: &str) -> Vec<f64> {
    output::reals(at, name)
}

pub fn group_size(at: u32) -> u32 {
    group::size(at)
}

pub fn group_example(at: u32, place: u32) -> u32 {
    group::example(at, place)
}

pub fn group_label(at: u32, field: &str) -> Option<u32> {
    group::label(at, field)
}

pub fn prediction_label(name: &str, field: &str) {
    prediction::label(name, field)
}

pub fn prediction_real(name: &str) {
    prediction::real(name)
}

pub fn prediction_file(name: &str, container: &str) {
    prediction::file(name, container)
}

pub fn prediction_file_field(file: &str, key: &str, field: &str, form: &str) {
    prediction::file_field(file, key, field, form)
}

pub fn prediction_file_column(file: &str, key: &str, prediction: &str, form: &str) {
    prediction::file_column(file, key, prediction, form)
}

pub fn set_label(at: u32, name: &str, label: u32) {
    prediction::set_label(at, name, label)
}

pub fn set_real(at: u32, name: &str, value: f64) {
    prediction::set_real(at, name, value)
}

pub fn get_label(at: u32, name: &str) -> Option<u32> {
    prediction::get_label(at, name)
}

pub fn get_real(at: u32, name: &str) -> Option<f64> {
    prediction::get_real(at, name)
}

pub fn statistic(name: &str) {
    statistic::sum(name)
}

pub fn add_statistic(at: u32, name: &str, key: u64, value: f64) {
    statistic::add(at, name, key, value)
}

pub fn sum_of(sample: u32, name: &str, key: u64) -> f64 {
    statistic::sum_of(sample, name, key)
}

pub fn metric(name: &str, higher_is_better: bool) {
    match higher_is_better {
        true => metric_functions::higher_is_better(name),
        false => metric_functions::lower_is_better(name),
    }
}

pub fn best_metric(name: &str) {
    metric_functions::best(name)
}

pub fn set_metric(sample: u32, name: &str, value: f64) {
    metric_functions::set(sample, name, value)
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

pub fn text_file(name: &str, prediction: &str) {
    prediction::text_file(name, prediction)
}
