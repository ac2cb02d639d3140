//! The command line: one file a command.

mod arguments;
mod bench;
mod cell;
mod compare;
mod data;
mod eval;
mod fetch;
mod info;
mod interrupt;
mod merge;
mod plan;
mod plugin;
mod progress;
mod run;
mod score;
mod sources;
pub mod terminal;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// Does what the arguments say.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Data(arguments) => data::data(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Fetch(arguments) => fetch::fetch(&arguments),
        Command::Info(arguments) => info::info(&arguments),
        Command::Eval(arguments) => eval::eval(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Merge(arguments) => merge::merge(&arguments),
        Command::Score(arguments) => score::score(&arguments),
        Command::Plugin(command) => plugin::plugin(&command),
        Command::BenchCell => return bench::cell(),
        Command::Cell(arguments) => return cell::train(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::report(&error),
    }
}
