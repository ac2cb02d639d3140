//! Anywhere but on wasm32: the host's own recorder, in this thread. A table, one
//! line a function.

use host_ir::graph::{Binary, Compare, Reduce, Unary};
use host_ir::record::{NamesOrPattern, NumberedSpan};
use host_ir::settings::{Setting, SettingType};
use host_ir::task::{FieldType, PredictionType, PredictionValue, SplitUse};

use super::Selection;
use crate::testing::recorded;

fn setting(key: &str, kind: SettingType, default: Setting, documentation: &str) -> Setting {
    recorded(|recorder| recorder.setting(key, kind, default, documentation))
}

fn text_of(setting: Setting) -> Option<String> {
    match setting {
        Setting::Text(text) => Some(text),
        _ => None,
    }
}

fn choice_of(selection: &Selection) -> NamesOrPattern {
    match selection.is_pattern {
        true => NamesOrPattern::Pattern(selection.values.concat()),
        false => NamesOrPattern::Names(selection.values.clone()),
    }
}

pub fn at(file: &str, line: u32) {
    recorded(|r| {
        r.at(file, line);
        Ok(())
    })
}

pub fn tell(message: &str) {
    recorded(|r| {
        r.log(message);
        Ok(())
    })
}

pub fn whole(key: &str, default: i64, minimum: i64, maximum: i64, documentation: &str) -> i64 {
    match setting(key, SettingType::Whole { minimum, maximum }, Setting::Whole(default), documentation) {
        Setting::Whole(value) => value,
        _ => default,
    }
}

pub fn real(key: &str, default: f64, minimum: f64, maximum: f64, documentation: &str) -> f64 {
    match setting(key, SettingType::Real { minimum, maximum }, Setting::Real(default), documentation) {
        Setting::Real(value) => value,
        _ => default,
    }
}

pub fn boolean(key: &str, default: bool, documentation: &str) -> bool {
    match setting(key, SettingType::Boolean, Setting::Boolean(default), documentation) {
        Setting::Boolean(value) => value,
        _ => default,
    }
}

pub fn text(key: &str, default: &str, documentation: &str) -> String {
    text_of(setting(key, SettingType::Text, Setting::Text(default.into()), documentation)).unwrap_or_default()
}

pub fn optional_text(key: &str, documentation: &str) -> Option<String> {
    text_of(setting(key, SettingType::OptionalText, Setting::Absent, documentation))
}

pub fn choice(key: &str, default: &str, options: &[String], documentation: &str) -> String {
    let kind = SettingType::Choice(options.to_vec());
    text_of(setting(key, kind, Setting::Text(default.into()), documentation)).unwrap_or_default()
}

pub fn texts(key: &str, default: &[String], documentation: &str) -> Vec<String> {
    match setting(key, SettingType::Texts, Setting::Texts(default.to_vec()), documentation) {
        Setting::Texts(values) => values,
        _ => Vec::new(),
    }
}

pub fn wholes(key: &str, default: &[i64], documentation: &str) -> Vec<i64> {
    match setting(key, SettingType::Wholes, Setting::Wholes(default.to_vec()), documentation) {
        Setting::Wholes(values) => values,
        _ => Vec::new(),
    }
}

pub fn numbers(key: &str, documentation: &str) -> Vec<(String, f64)> {
    match setting(key, SettingType::Numbers, Setting::Numbers(Vec::new()), documentation) {
        Setting::Numbers(values) => values,
        _ => Vec::new(),
    }
}

pub fn names_or_pattern(key: &str, default: &Selection, documentation: &str) -> Selection {
    let default = match default.is_pattern {
        true => Setting::Text(default.values.concat()),
        false => Setting::Texts(default.values.clone()),
    };
    match setting(key, SettingType::NamesOrPattern, default, documentation) {
        Setting::Text(pattern) => Selection { is_pattern: true, values: vec![pattern] },
        Setting::Texts(values) => Selection { is_pattern: false, values },
        _ => Selection::default(),
    }
}

pub fn plugin(name: &str, version: &str, summary: &str) {
    recorded(|r| {
        r.plugin(name, version, summary);
        Ok(())
    })
}

pub fn reject_setting(key: &str, sentence: &str) {
    recorded(|r| Err(r.reject_setting(key, sentence)))
}

pub fn shape(value: u32) -> Vec<u32> {
    recorded(|r| r.shape(value))
}

pub fn scalar(value: f64) -> u32 {
    recorded(|r| r.scalar(value))
}

pub fn constant(shape: &[u32], values: &[f64]) -> u32 {
    recorded(|r| r.constant(shape, values))
}

pub fn integers(shape: &[u32], values: &[i32]) -> u32 {
    recorded(|r| r.integers(shape, values))
}

pub fn full(shape: &[u32], value: f64) -> u32 {
    recorded(|r| r.full(shape, value))
}

pub fn eye(size: u32) -> u32 {
    recorded(|r| r.eye(size))
}

pub fn uniform(shape: &[u32], low: f64, high: f64, key: Option<&str>) -> u32 {
    recorded(|r| r.uniform(shape, low, high, key.map(str::to_string)))
}

pub fn normal(shape: &[u32], mean: f64, deviation: f64, key: Option<&str>) -> u32 {
    recorded(|r| r.normal(shape, mean, deviation, key.map(str::to_string)))
}

pub fn draw(count: u32, bound: u32, key: Option<&str>) -> u32 {
    recorded(|r| r.draw(count, bound, key.map(str::to_string)))
}

pub fn add(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Add, a, b))
}

pub fn subtract(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Subtract, a, b))
}

pub fn multiply(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Multiply, a, b))
}

pub fn divide(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Divide, a, b))
}

pub fn maximum(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Maximum, a, b))
}

pub fn minimum(a: u32, b: u32) -> u32 {
    recorded(|r| r.binary(Binary::Minimum, a, b))
}

pub fn exp(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Exp, value))
}

pub fn log(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Log, value))
}

pub fn sqrt(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Sqrt, value))
}

pub fn abs(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Abs, value))
}

pub fn tanh(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Tanh, value))
}

pub fn sigmoid(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Sigmoid, value))
}

pub fn relu(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Relu, value))
}

pub fn gelu(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Gelu, value))
}

pub fn silu(value: u32) -> u32 {
    recorded(|r| r.unary(Unary::Silu, value))
}

pub fn affine(value: u32, factor: f64, offset: f64) -> u32 {
    recorded(|r| r.affine(value, factor, offset))
}

pub fn power(value: u32, exponent: f64) -> u32 {
    recorded(|r| r.power(value, exponent))
}

pub fn permute(value: u32, axes: &[u32]) -> u32 {
    recorded(|r| r.permute(value, axes))
}

pub fn transpose(value: u32) -> u32 {
    recorded(|r| r.transpose(value))
}

pub fn reshape(value: u32, shape: &[u32]) -> u32 {
    recorded(|r| r.reshape(value, shape))
}

pub fn slice(value: u32, axis: i32, start: u32, length: u32) -> u32 {
    recorded(|r| r.slice(value, axis, start, length))
}

pub fn concat(values: &[u32], axis: i32) -> u32 {
    recorded(|r| r.concat(values, axis))
}

pub fn matmul(a: u32, b: u32) -> u32 {
    recorded(|r| r.matmul(a, b))
}

pub fn sum(value: u32, axes: &[i32], keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::Sum, value, axes, keep))
}

pub fn mean(value: u32, axes: &[i32], keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::Mean, value, axes, keep))
}

pub fn norm(value: u32, axes: &[i32], keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::Norm, value, axes, keep))
}

pub fn deviation(value: u32, axes: &[i32], keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::Deviation, value, axes, keep))
}

pub fn log_sum_exp(value: u32, axis: i32, keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::LogSumExp, value, &[axis], keep))
}

pub fn largest_over(value: u32, axis: i32, keep: bool) -> u32 {
    recorded(|r| r.reduce(Reduce::Maximum, value, &[axis], keep))
}

pub fn positions(value: u32, axis: i32) -> u32 {
    recorded(|r| r.positions(value, axis))
}

pub fn quotient(value: u32, divisor: u32) -> u32 {
    recorded(|r| r.quotient(value, divisor))
}

pub fn remainder(value: u32, divisor: u32) -> u32 {
    recorded(|r| r.remainder(value, divisor))
}

pub fn equal(a: u32, b: u32) -> u32 {
    recorded(|r| r.compare(Compare::Equal, a, b))
}

pub fn less(a: u32, b: u32) -> u32 {
    recorded(|r| r.compare(Compare::Less, a, b))
}

pub fn shift(value: u32, by: i32) -> u32 {
    recorded(|r| r.shift(value, by))
}

pub fn largest(value: u32, thousandths: u32) -> u32 {
    recorded(|r| r.largest(value, thousandths))
}

pub fn arg_max(value: u32, axis: i32) -> u32 {
    recorded(|r| r.arg_max(value, axis))
}

pub fn elements(value: u32, places: u32) -> u32 {
    recorded(|r| r.elements(value, places))
}

pub fn softmax(value: u32, axis: i32) -> u32 {
    recorded(|r| r.softmax(value, axis))
}

pub fn log_softmax(value: u32, axis: i32) -> u32 {
    recorded(|r| r.log_softmax(value, axis))
}

pub fn rows(table: u32, indices: u32) -> u32 {
    recorded(|r| r.rows(table, indices))
}

pub fn cross_entropy(logits: u32, labels: u32) -> u32 {
    recorded(|r| r.cross_entropy(logits, labels))
}

pub fn detach(value: u32) -> u32 {
    recorded(|r| r.detach(value))
}

pub fn dropout(value: u32, probability: f64) -> u32 {
    recorded(|r| r.dropout(value, probability))
}

pub fn training(training: u32, evaluation: u32) -> u32 {
    recorded(|r| r.training(training, evaluation))
}

pub fn architecture() -> String {
    recorded(|r| r.architecture())
}

pub fn fact(key: &str) -> Option<u64> {
    recorded(|r| r.fact(key))
}

pub fn sites(kind: &str) -> Vec<u32> {
    recorded(|r| r.sites(kind))
}

pub fn select(
    kind: &str,
    targets: &Selection,
    exclude: &Selection,
    layers: &[u32],
    patterns: &[String],
) -> Vec<u32> {
    recorded(|r| r.select(kind, &choice_of(targets), &choice_of(exclude), layers, patterns))
}

pub fn lookup(at: u32, keys: &[String]) -> Option<u32> {
    recorded(|r| r.lookup(at, keys))
}

pub fn site_name(at: u32) -> String {
    recorded(|r| r.site_name(at))
}

pub fn site_layer(at: u32) -> Option<u32> {
    recorded(|r| r.site_layer(at))
}

pub fn site_inputs(at: u32) -> u32 {
    recorded(|r| r.site_inputs(at))
}

pub fn site_outputs(at: u32) -> u32 {
    recorded(|r| r.site_outputs(at))
}

pub fn site_input(at: u32) -> u32 {
    recorded(|r| r.site_input(at))
}

pub fn site_output(at: u32) -> u32 {
    recorded(|r| r.site_output(at))
}

pub fn site_weight(at: u32) -> u32 {
    recorded(|r| r.site_weight(at))
}

pub fn site_bias(at: u32) -> Option<u32> {
    recorded(|r| r.site_bias(at))
}

pub fn parameters(role: &str) -> Vec<u32> {
    recorded(|r| r.parameters(role))
}

pub fn parameters_matching(pattern: &str) -> Vec<u32> {
    recorded(|r| r.parameters_matching(pattern))
}

pub fn parameter_name(parameter: u32) -> String {
    recorded(|r| r.parameter_name(parameter))
}

pub fn word_embeddings() -> u32 {
    recorded(|r| r.word_embeddings())
}

pub fn tokenize(text: &str) -> Vec<u32> {
    recorded(|r| r.tokenize(text))
}

pub fn train(parameter: u32) {
    recorded(|r| r.train(parameter))
}

pub fn freeze_head() {
    recorded(|r| r.freeze_head())
}

pub fn parameter(owner: Option<u32>, name: &str, initial: u32) -> u32 {
    recorded(|r| r.parameter(owner, name, initial, true))
}

pub fn frozen(owner: Option<u32>, name: &str, initial: u32) -> u32 {
    recorded(|r| r.parameter(owner, name, initial, false))
}

pub fn replace_input(at: u32, value: u32) {
    recorded(|r| r.replace_input(at, value))
}

pub fn replace_output(at: u32, value: u32) {
    recorded(|r| r.replace_output(at, value))
}

pub fn replace_weight(at: u32, value: u32) {
    recorded(|r| r.replace_weight(at, value))
}

pub fn change_base(at: u32, value: u32) {
    recorded(|r| r.change_base(at, value))
}

pub fn merge_as(at: u32, value: u32) {
    recorded(|r| r.merge_as(at, value))
}

pub fn merge_bias_as(at: u32, value: u32) {
    recorded(|r| r.merge_bias_as(at, value))
}

pub fn replace_output_at(at: u32, value: u32, first: u32, last: u32) {
    recorded(|r| r.replace_output_at(at, value, first, last))
}

pub fn prompt(embeddings: u32) {
    recorded(|r| r.prompt(embeddings))
}

pub fn prefix(at: u32, keys: u32, values: u32) {
    recorded(|r| r.prefix(at, keys, values))
}

pub fn add_loss(value: u32) {
    recorded(|r| r.add_loss(value))
}

pub fn learning_rate(parameter: u32, factor: f64) {
    recorded(|r| r.learning_rate(parameter, factor))
}

pub fn weight_decay(parameter: u32, decay: f64) {
    recorded(|r| r.weight_decay(parameter, decay))
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

pub fn output_text(at: u32, name: &str) -> String {
    recorded(|r| r.output_text(at, name))
}

pub fn group_text(at: u32, field: &str) -> Result<String, String> {
    recorded(|r| r.group_text(at, field))
}

pub fn prediction_text(name: &str) {
    recorded(|r| r.prediction(name, PredictionType::Text))
}

pub fn set_text(at: u32, name: &str, value: &str) {
    recorded(|r| r.set_prediction(at, name, PredictionValue::Text(value.into())))
}

pub fn get_text(at: u32, name: &str) -> Option<String> {
    recorded(|r| r.prediction_text(at, name))
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

pub fn declare_output(name: &str, value: u32) {
    recorded(|r| r.declare_output(name, value))
}

pub fn output_reals(at: u32, name: &str) -> Vec<f64> {
    recorded(|r| r.output_reals(at, name))
}

pub fn group_size(at: u32) -> u32 {
    recorded(|r| r.group_size(at))
}

pub fn group_example(at: u32, place: u32) -> u32 {
    recorded(|r| r.group_example(at, place))
}

pub fn group_label(at: u32, field: &str) -> Option<u32> {
    recorded(|r| r.group_label(at, field))
}

pub fn prediction_label(name: &str, field: &str) {
    recorded(|r| r.prediction(name, PredictionType::Label(field.into())))
}

pub fn prediction_real(name: &str) {
    recorded(|r| r.prediction(name, PredictionType::Real))
}

pub fn prediction_file(name: &str, container: &str) {
    recorded(|r| r.prediction_file(name, container))
}

pub fn prediction_file_field(file: &str, key: &str, field: &str, form: &str) {
    recorded(|r| r.prediction_file_column(file, key, (false, field), form))
}

pub fn prediction_file_column(file: &str, key: &str, prediction: &str, form: &str) {
    recorded(|r| r.prediction_file_column(file, key, (true, prediction), form))
}

pub fn set_label(at: u32, name: &str, label: u32) {
    recorded(|r| r.set_prediction(at, name, PredictionValue::Label(label)))
}

pub fn set_real(at: u32, name: &str, value: f64) {
    recorded(|r| r.set_prediction(at, name, PredictionValue::Real(value)))
}

pub fn get_label(at: u32, name: &str) -> Option<u32> {
    recorded(|r| r.prediction_label(at, name))
}

pub fn get_real(at: u32, name: &str) -> Option<f64> {
    recorded(|r| r.prediction_real(at, name))
}

pub fn statistic(name: &str) {
    recorded(|r| r.sum(name))
}

pub fn add_statistic(at: u32, name: &str, key: u64, value: f64) {
    recorded(|r| r.add_statistic(at, name, key, value))
}

pub fn sum_of(sample: u32, name: &str, key: u64) -> f64 {
    recorded(|r| r.sum_of(sample, name, key))
}

pub fn metric(name: &str, higher_is_better: bool) {
    recorded(|r| r.metric(name, higher_is_better))
}

pub fn best_metric(name: &str) {
    recorded(|r| r.best_metric(name))
}

pub fn set_metric(sample: u32, name: &str, value: f64) {
    recorded(|r| r.set_metric(sample, name, value))
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

fn numbered(spans: &[(u32, u32, u32)]) -> Vec<NumberedSpan> {
    spans.iter().map(|&(first, last, number)| [first, last, number]).collect()
}

fn tuples(spans: Option<Vec<NumberedSpan>>) -> Option<Vec<(u32, u32, u32)>> {
    spans.map(|spans| spans.into_iter().map(|[first, last, number]| (first, last, number)).collect())
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

pub fn text_file(name: &str, prediction: &str) {
    recorded(|r| r.text_file(name, prediction))
}
