//! A run in seconds: the config's task, methods and settings on the program's own
//! small model and the sample that the task's plugin carries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host_engine::data::find;
use host_engine::files::checkpoint::read_config;
use host_engine::models;
use host_engine::train::settings::TrainingSettings;
use host_ir::task::HeadKind;
use host_plugin::Task;

use crate::cell::{DataSpec, ModelSpec, Source};
use crate::config::Config;
use crate::embedded;
use crate::session::{data, load};

/// Examples of a batch, and epochs, so that each has a step and an evaluation.
const EXAMPLES: u64 = 4;
const EPOCHS: f64 = 2.0;

/// The same run on a small model and a few records.
///
/// # Errors
/// A task without a sample, or with a wrong one; a cache folder that cannot be written.
pub fn smoke(mut config: Config) -> Result<Config> {
    config.name.push_str("-smoke");
    config.seeds.truncate(1);
    let task = load::task(&config.task)?;
    let sample = sample(&task, &config.task.name)?;
    config.model =
        model(&task, &sample).with_context(|| format!("the sample of the task {}", config.task.name))?;
    config.data = DataSpec {
        path: Source::Path(sample),
        files: Vec::new(),
        max_bad_records: 0,
        too_long: config.data.too_long,
    };
    shorten(&mut config.training);
    config.methods.iter_mut().for_each(|method| shorten(&mut method.training));
    Ok(config)
}

/// The folder with a task's sample.
fn sample(task: &Task, name: &str) -> Result<PathBuf> {
    if task.layout.samples.is_empty() {
        bail!(
            "the task {name} carries no sample (source.sample), so that it can be tried on data of its own only"
        );
    }
    let samples = task.layout.samples.iter();
    let files: Vec<(&str, &[u8])> =
        samples.map(|(name, content)| (name.as_str(), content.as_bytes())).collect();
    embedded::written("sample", &files)
}

/// The small model that fits the head for which the task asks.
fn model(task: &Task, sample: &Path) -> Result<ModelSpec> {
    let encoder = Source::Embedded(None);
    let config = models::read(&read_config(&embedded::model(&encoder)?)?)?;
    let found = find::find(&task.layout, sample, &BTreeMap::new())?;
    let counts = data::counts(task, &found, 0, &mut Vec::new())?;
    let plan = load::task_plan(task, config.as_ref(), counts)?;
    Ok(match plan.head {
        // It is carried without weights, which the run's seed gives.
        Some(HeadKind::SequenceToSequence) => {
            let path = Source::Embedded(Some(embedded::ENCODER_DECODER.into()));
            ModelSpec { path, reinitialise: true }
        }
        _ => ModelSpec { path: encoder, reinitialise: false },
    })
}

fn shorten(training: &mut TrainingSettings) {
    training.num_train_epochs = EPOCHS;
    training.max_steps = None;
    training.per_device_train_batch_size = training.per_device_train_batch_size.min(EXAMPLES);
    training.gradient_accumulation_steps = training.gradient_accumulation_steps.min(2);
    training.train_batch_tokens = None;
    training.warmup_steps = training.warmup_steps.map(|_| 1);
}
