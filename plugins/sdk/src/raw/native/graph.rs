//! The nodes of a graph.

use crate::testing::recorded;
use host_ir::graph::{Binary, Compare, Reduce, Unary};

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
