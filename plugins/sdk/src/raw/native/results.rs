//! Outputs, predictions and metrics.

use crate::testing::recorded;
use host_ir::task::{PredictionType, PredictionValue};

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

pub fn text_file(name: &str, prediction: &str) {
    recorded(|r| r.text_file(name, prediction))
}
