//! A run in seconds: the config's task, methods and settings on the program's own
//! small model and the sample that the task's plugin carries.

use anyhow::{Result, bail};
use host_engine::train::settings::TrainingSettings;

use crate::cell::{DataSpec, ModelSpec, PluginSpec, Source};
use crate::config::Config;
use crate::embedded;
use crate::session::prepare;

/// Examples of a batch, and epochs, so that each has a step and an evaluation.
const EXAMPLES: u64 = 4;
const EPOCHS: f64 = 2.0;

/// The same run on a small model and a few records.
///
/// # Errors
/// A task without a sample; a cache folder that cannot be written.
pub fn smoke(mut config: Config) -> Result<Config> {
    config.name.push_str("-smoke");
    config.seeds.truncate(1);
    config.model = ModelSpec { path: Source::Embedded(None), reinitialise: false };
    config.data = DataSpec {
        path: sample(&config.task)?,
        files: Vec::new(),
        max_bad_records: 0,
        too_long: config.data.too_long,
    };
    shorten(&mut config.training);
    config.methods.iter_mut().for_each(|method| shorten(&mut method.training));
    Ok(config)
}

/// The folder with a task's sample.
fn sample(task: &PluginSpec) -> Result<Source> {
    let layout = prepare::task(task)?.layout;
    if layout.samples.is_empty() {
        bail!(
            "the task {} carries no sample (source.sample), so that it can be tried on data of its own only",
            task.name
        );
    }
    let files: Vec<(&str, &[u8])> =
        layout.samples.iter().map(|(name, content)| (name.as_str(), content.as_bytes())).collect();
    Ok(Source::Path(embedded::written("sample", &files)?))
}

fn shorten(training: &mut TrainingSettings) {
    training.num_train_epochs = EPOCHS;
    training.max_steps = None;
    training.per_device_train_batch_size = training.per_device_train_batch_size.min(EXAMPLES);
    training.gradient_accumulation_steps = training.gradient_accumulation_steps.min(2);
    training.train_batch_tokens = None;
    training.warmup_steps = training.warmup_steps.map(|_| 1);
}
