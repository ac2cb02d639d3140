//! `host`: compares fine-tuning methods, each a sandboxed plugin.

mod benchmark;
mod cell;
mod cli;
mod config;
mod confusion;
mod dataset;
mod embedded;
mod hub;
mod plugins;
mod runs;
mod session;

fn main() -> std::process::ExitCode {
    cli::main()
}
