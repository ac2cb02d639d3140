//! Settings, the model, and what a method plans.

use super::node;
use crate::bindings::method::peft::plugin::model::Site;
use crate::bindings::method::peft::plugin::settings::Selection as Wire;
use crate::bindings::method::peft::plugin::{model, planner, report, settings};
use crate::raw::Selection;

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
