#![allow(dead_code)]
mod cell;
mod config;
mod session;
fn main() {}
