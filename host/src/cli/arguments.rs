//! The arguments and their help.

mod elsewhere;
mod help;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use super::terminal;
use crate::cell::Plugin;
use crate::config::raw::{Place, Value};
use crate::config::{Config, raw::Raw, resolved};
use crate::session;
use elsewhere::Elsewhere;
use help::{CONFIG_HELP, EXAMPLES, HUB_HELP, SCORE_HELP};

/// Trains one model on one task with several fine-tuning methods and compares
/// them.
///
/// Methods and tasks are plugins: sandboxed WASM components that say what
/// should be trained, while this program computes. A config names the model,
/// the data, the task and the methods.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArguments),
    Plan(PlanArguments),
    Data(DataArguments),
    Bench(BenchArguments),
    Fetch(FetchArguments),
    Info(InfoArguments),
    Eval(EvalArguments),
    Compare(CompareArguments),
    Merge(MergeArguments),
    Score(ScoreArguments),
    /// Show the plugins that are installed, or check one
    #[command(subcommand)]
    Plugin(PluginCommand),
    Cell(CellArguments),
    /// Measure one cell: the child process of `host bench`
    #[command(hide = true)]
    BenchCell,
}

/// Train every method of a config and compare them
///
/// Each method is trained once for each seed. A cell (one method, one seed)
/// that is finished is kept in the run directory and not trained again, so that
/// a run that was stopped, or to which a method is added, goes on where it was.
/// One of which something is missing or broken is set aside and trained again. One
/// that was interrupted goes on from its checkpoint, which it writes after each
/// epoch, on Ctrl-C, SIGTERM and SIGUSR1, and comes to the same bits; without its
/// file checkpoint.safetensors it starts from the beginning.
/// At the end the table stands on the standard output, and in the run directory
/// as comparison.md, comparison.csv, comparison.json and report.html.
#[derive(Debug, Args)]
#[command(after_long_help = CONFIG_HELP)]
pub struct RunArguments {
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The run directory [default: runs/NAME]
    #[arg(long, value_name = "DIR", conflicts_with = "smoke")]
    pub out: Option<PathBuf>,
}

/// Show what would be trained, without training
///
/// For each method: which parameters train, which are added and where, how much
/// memory training will take, and the plan itself as the plugin has said it.
#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Leave out the plans themselves
    #[arg(long)]
    pub summary: bool,
}

/// Show the data as the model would read them
///
/// For each split: examples, class balance, lengths in tokens, what was cut, texts
/// that stand twice or in what trains too, and the first examples as tokens with
/// their segments and labels. Sequences are not padded: the model attends to every
/// token that is shown. Data on which a run would not train are shown too, and are an
/// error.
#[derive(Debug, Args)]
pub struct DataArguments {
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Examples of each split that are shown
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    pub examples: usize,
}

/// Measure what training would cost on this machine
///
/// Makes some steps of each method, in a process of its own, and writes nothing:
/// tokens and examples a second, an epoch's time, peak memory, and the share of
/// the machine's peak in matrix products that was reached, so that a job can be
/// sized before it is submitted.
#[derive(Debug, Args)]
pub struct BenchArguments {
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Examples of a batch [default: the config's]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: Option<u64>,
    /// Bring every sequence to so many tokens [default: the data as they are]
    #[arg(long, value_name = "TOKENS")]
    pub length: Option<usize>,
    /// Steps that are measured
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Steps before them that are not
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub warmup_steps: usize,
    /// Show where a step's time goes
    #[arg(long)]
    pub profile: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Bring the model and the data that a config names at the hub
///
/// For what stands under model.name and data.name: config.json, the tokenizer,
/// and the weights in one form (safetensors where there are any, else
/// pytorch_model.bin); of a data set the files in which the task looks for its
/// splits. `host run` does the same by itself where there is a network; before
/// a job on a node without one, run this on a machine that has it.
#[derive(Debug, Args)]
#[command(after_long_help = HUB_HELP)]
pub struct FetchArguments {
    #[command(flatten)]
    pub config: ConfigArguments,
}

/// Show what this machine and this build have: devices, threads, caches, plugins
///
/// Says what is missing for CUDA too, and how to get it.
#[derive(Debug, Args)]
pub struct InfoArguments {
    #[command(flatten)]
    pub plugins: PluginFolder,
}

#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// The config, a TOML file; paths in it are relative to the current directory
    #[arg(value_name = "CONFIG")]
    pub path: PathBuf,
    /// Override a key, e.g. --set training.learning_rate=1e-3 (repeatable)
    ///
    /// The value is read as TOML, and as a string where it is none. An override
    /// of one method (--set methods.NAME.KEY=VALUE) leaves the other methods as
    /// they are; one of the training (--set training.KEY=VALUE) holds for every
    /// method, whatever its own table says.
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    pub set: Vec<String>,
    /// Only this method of the config (repeatable)
    #[arg(long = "method", value_name = "NAME")]
    pub methods: Vec<String>,
    /// Train with this seed instead of the config's (repeatable)
    #[arg(long = "seed", value_name = "NUMBER")]
    pub seeds: Vec<u32>,
    /// What computes: auto, cpu, cuda, cuda:1, metal, or candle-cpu (host info)
    #[arg(long)]
    pub device: Option<String>,
    /// What numbers are computed in: fp32; tf32 on CUDA; bf16 on a GPU
    #[arg(long)]
    pub precision: Option<String>,
    /// Threads that compute [default: what the batch job was given, or all cores]
    #[arg(long, value_name = "NUMBER")]
    pub threads: Option<u32>,
    /// Try every step in seconds, on a small model and a few records of the task
    ///
    /// Model and data of the config are not looked at: the program's own model and
    /// the sample that the task carries take their place, for two short epochs with
    /// one seed. The run directory is runs/NAME-smoke, and is written anew each time.
    #[arg(long)]
    pub smoke: bool,
    #[command(flatten)]
    pub plugins: PluginFolder,
}

/// Write a trained cell as a model in the hub's layout
///
/// What the method has learned is merged into the weights, so that the folder
/// loads wherever such models do: config.json with the class of transformers that
/// has this head and the names of its labels, the tokenizer, and model.safetensors
/// with the names of transformers. A method with virtual tokens cannot be merged.
#[derive(Debug, Args)]
pub struct MergeArguments {
    /// The run directory, or that of one cell
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The folder to write, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The method, where the run has several
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// The seed, where the run has several
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u32>,
    /// In what the weights are stored
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: StoredPrecision,
    /// Leave out what the task has added
    #[arg(long)]
    pub without_head: bool,
    #[command(flatten)]
    pub elsewhere: Elsewhere,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum StoredPrecision {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, Args)]
pub struct PluginFolder {
    /// The folder of further plugins [default: $HOST_PLUGIN_DIR, or
    /// ~/.local/share/host/plugins where it exists]
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Option<PathBuf>,
}

/// Load what a run has saved and evaluate it again
///
/// Gives the metrics again beside the recorded ones, and says whether they
/// agree, and which files are others than in training. Where metrics do not agree,
/// the exit code is 1.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The run directory, or the directory of one cell
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// What computes: auto, cpu, cuda, cuda:1, metal, or candle-cpu [default: what trained]
    ///
    /// One that does not compute in the precision of the training computes in fp32.
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    pub elsewhere: Elsewhere,
}

/// Show the comparison of finished runs again, or of several together
///
/// A cell that is named twice, or of which there is a copy, counts once.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// Run directories, or directories of cells
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The split whose scores are compared [default: the last that the task has]
    #[arg(long)]
    pub split: Option<String>,
    /// Write the comparison's files and the report into this folder too
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Score the predictions of any system, without a model
///
/// The task's own reading and scoring, as they are used in training: what this
/// prints for the predictions of a run is what the run has recorded. An example
/// that has gold and no prediction counts as wrong.
#[derive(Debug, Args)]
#[command(after_long_help = SCORE_HELP)]
pub struct ScoreArguments {
    /// The task's name
    #[arg(value_name = "TASK")]
    pub task: String,
    /// The file with what is right, in one of the task's formats
    #[arg(long, value_name = "FILE")]
    pub gold: PathBuf,
    /// The file with what was predicted
    #[arg(long, value_name = "FILE")]
    pub pred: PathBuf,
    /// A key of the task, e.g. --set max_tokens=64 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub plugins: PluginFolder,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// List the plugins that are installed
    List {
        #[command(flatten)]
        plugins: PluginFolder,
    },
    /// Show a plugin's keys with their types, defaults and documentation
    Show {
        /// The plugin's name
        name: String,
        #[command(flatten)]
        plugins: PluginFolder,
    },
    /// Check a plugin's file as if it were installed, and show it
    Check {
        /// A component, or a core module that carries its world
        file: PathBuf,
    },
}

/// Train one cell: the child process of `host run`
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct CellArguments {
    /// The cell, as JSON
    pub job: PathBuf,
    /// The cell's directory
    pub directory: PathBuf,
}

impl PluginFolder {
    /// The folder of further plugins, if there is one.
    ///
    /// # Errors
    /// A folder that is named and is none.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(named) = self.plugin_dir.clone().or_else(|| variable("HOST_PLUGIN_DIR")) {
            if !named.is_dir() {
                bail!("the plugin folder {} does not exist", named.display());
            }
            return Ok(Some(named));
        }
        let data = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
        Ok(data.map(|data| data.join("host/plugins")).filter(|folder| folder.is_dir()))
    }

    /// Every plugin that is installed. What of the folder cannot be used is told, and
    /// only who asks for it goes without.
    pub fn catalogue(&self) -> Result<Vec<Plugin>> {
        Ok(self.usable()?.0)
    }

    /// Every plugin that is installed, and how many of the folder cannot be used.
    fn usable(&self) -> Result<(Vec<Plugin>, usize)> {
        let (plugins, unusable) = session::catalogue(self.path()?.as_deref())?;
        unusable.iter().for_each(|sentence| terminal::warning(sentence));
        Ok((plugins, unusable.len()))
    }
}

impl ConfigArguments {
    /// The config with the overrides of the command line, resolved.
    pub fn resolve(&self) -> Result<Config> {
        let mut raw = Raw::read(&self.path)?;
        for argument in &self.set {
            raw.set(argument)?;
        }
        if !self.seeds.is_empty() {
            let place = Place::of_argument("--seed");
            let seed = |&seed: &u32| place.item(Value::Whole(i64::from(seed)));
            raw.set_option("--seed", "seeds", Value::List(self.seeds.iter().map(seed).collect()))?;
        }
        if let Some(device) = &self.device {
            raw.set_option(&format!("--device {device}"), "device", Value::Text(device.clone()))?;
        }
        if let Some(precision) = &self.precision {
            let value = Value::Text(precision.clone());
            raw.set_option(&format!("--precision {precision}"), "precision", value)?;
        }
        if let Some(threads) = self.threads {
            raw.set_option(&format!("--threads {threads}"), "threads", Value::Whole(i64::from(threads)))?;
        }
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let (catalogue, unusable) = self.plugins.usable().context("the plugins cannot be listed")?;
        let config = resolved::resolve(&raw, &stem, &catalogue, &self.methods)?;
        if unusable > 0 && raw.means_all_methods() && self.methods.is_empty() {
            bail!(
                "the config takes every method that is installed, and one of them may be a plugin that cannot be \
                 used (the warning above says which); repair it or take it away, or name the methods: `methods` in \
                 the config, or --method NAME"
            );
        }
        if !config.data.files.is_empty() && !self.smoke {
            let layout = session::layout(&config.task)?;
            resolved::check_splits(&raw, &layout)?;
        }
        if self.smoke { session::smoke(config) } else { Ok(config) }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::training;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_training_key() {
        for (key, _) in training::keys() {
            assert!(CONFIG_HELP.contains(key), "{key}");
        }
    }
}
