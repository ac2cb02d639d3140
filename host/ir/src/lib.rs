//! The plan as data: what plugins say and what the host compiles.
//!
//! A plugin describes, the host computes. Between the two stands this crate:
//! expressions over values ([`graph`]), the base model as a plugin sees it
//! ([`model`]), what a method decides ([`method`]), what a task declares
//! ([`task`]), and the [`record::Recorder`] that turns the calls of the
//! contract into those and refuses what is not legal. It knows neither wasmtime
//! nor candle, so that plans can be made, printed, checked and tested anywhere.

pub mod graph;
pub mod interpret;
pub mod method;
pub mod model;
pub mod random;
pub mod record;
pub mod select;
pub mod settings;
pub mod shape;
pub mod task;
pub mod text;
