#![allow(dead_code)]
mod cell;
mod config;
mod runs;
mod session;
fn main() {}
