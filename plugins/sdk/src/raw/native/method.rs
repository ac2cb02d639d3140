//! Settings, the model, and what a method plans.

use crate::raw::Selection;
use crate::testing::recorded;
use host_ir::record::NamesOrPattern;
use host_ir::settings::{Setting, SettingType};

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
