//! Outputs, predictions and metrics.

use super::node;
use crate::bindings::task::peft::plugin::metric as metric_functions;
use crate::bindings::task::peft::plugin::{group, output, prediction, statistic};

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

pub fn text_file(name: &str, prediction: &str) {
    prediction::text_file(name, prediction)
}
