//! The nodes of a graph.

use super::node;
use crate::bindings::method::peft::plugin::graph;
use crate::bindings::method::peft::plugin::graph::Node;

fn nodes(ids: &[u32]) -> Vec<Node> {
    ids.iter().map(|&id| Node { id }).collect()
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
