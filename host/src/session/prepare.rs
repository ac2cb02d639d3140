//! Everything that a cell needs before its first step: plugins, plans, data
//! and weights, checked.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use host_engine::backend::Backend;
use host_engine::backend::timed::{Timed, Times};
use host_engine::compile::{Compiled, Plans};
use host_engine::data::dataset::Noise;
use host_engine::data::find;
use host_engine::data::sampler::Sampler;
use host_engine::engine::Engine;
use host_engine::files::checkpoint::{Checkpoint, read_generation_config};
use host_engine::init::{self, Reinitialised, initial_blocks};
use host_engine::machine;
use host_engine::models::{self, Architecture};
use host_engine::text::Tokenizer;
use host_engine::train::memory::{
    LargestBatch, MemoryEstimate, estimate, micro_batch_rows, micro_batch_that_fits,
};
use host_engine::train::trainer::{Batches, total_steps};
use host_ir::method::MethodPlan;
use host_ir::task::{HeadKind, Layout, SplitUse, TaskPlan};
use host_plugin::Task;

use crate::cell::{BestMetric, CellSpec, Summary};
use crate::embedded;
use crate::session::data::{self, Split, Tokenising};
use crate::session::load::{Plugins, plugins, task_plan};
use crate::session::saved;

/// Memory that is left to others, in parts of what is free: one of so many.
const MEMORY_MARGIN: u64 = 16;

/// A cell that is ready to train.
pub struct Prepared {
    pub task: Task,
    pub plans: Plans,
    pub splits: Vec<Split>,
    pub tokenizer: Tokenizer,
    pub warnings: Vec<String>,
    pub load_seconds: f64,
    pub plan_seconds: f64,
    model: PathBuf,
    training: Compiled,
}

/// Prepares a cell: its method's plugin is asked for the plan.
pub fn prepare(spec: &CellSpec) -> Result<Prepared> {
    prepare_with(spec, None)
}

/// Prepares a cell that was trained, from the plan that was saved with it.
pub fn prepare_saved(spec: &CellSpec, directory: &Path) -> Result<Prepared> {
    prepare_with(spec, Some(saved::read_plan(directory)?))
}

fn prepare_with(spec: &CellSpec, saved: Option<MethodPlan>) -> Result<Prepared> {
    let model = embedded::model(&spec.model.path)?;
    // A vocabulary takes as long to read as both plugins.
    let (plugins, tokenizer) = thread::scope(|scope| {
        let tokenizer = scope.spawn(|| Tokenizer::open(&model));
        (plugins(spec, saved.is_none()), tokenizer.join())
    });
    let Plugins { task, method, load_seconds } = plugins?;
    let tokenizer = tokenizer.unwrap_or_else(|panic| resume_unwind(panic));
    let mut config =
        models::read(&read_generation_config(&model)?).with_context(|| model.display().to_string())?;
    if spec.training.head_learning_rate.is_some() && spec.training.learning_rate == 0.0 {
        bail!(
            "training.head_learning_rate follows the schedule of training.learning_rate, which is 0: the head \
             would not train; give a learning rate above 0, however small"
        );
    }
    if let Some(dropout) = spec.training.dropout {
        config.set_dropout(dropout);
    }
    let tokenizer = tokenizer?;
    if tokenizer.vocabulary_size() > config.vocabulary() {
        bail!(
            "{}: the tokenizer has {} tokens and config.json a vocabulary of {}; they do not belong together",
            model.display(),
            tokenizer.vocabulary_size(),
            config.vocabulary()
        );
    }
    let folder = embedded::data(&spec.data.path)?;
    let mut warnings = Vec::new();
    let found = find::find(&task.layout, &folder, &spec.data.overrides())?;
    let counts = data::counts(&task, &found, spec.data.max_bad_records, &mut warnings)?;
    let planning = Instant::now();
    let task_plan = task_plan(&task, config.as_ref(), counts)?;
    check_task(&task_plan, &task.layout)?;
    // Of a model that starts at random, the checkpoint still says what is new, so
    // that the same parameters train as with its weights.
    let names = match spec.model.reinitialise {
        true => Checkpoint::open(&model, config.prefix(task_plan.head)).ok(),
        false => Some(Checkpoint::open(&model, config.prefix(task_plan.head))?),
    };
    let present = |name: &str| names.as_ref().is_none_or(|checkpoint| checkpoint.has(name));
    let mut description = match task_plan.head {
        Some(head) => config.describe(head, &present),
        None if task_plan.parameters.is_empty() => {
            bail!("the task {} asks for no head and makes none", spec.task.name)
        }
        None => config.describe_headless(&present),
    };
    task_plan.add_head_to(&mut description);
    let method_plan = match (saved, &method) {
        (Some(plan), _) => plan,
        (None, Some((plugin, values))) => {
            let words = tokenizer.clone();
            let tokenize: host_ir::record::Tokenize = Arc::new(move |text: &str| words.ids(text));
            let called = plugin.plan_method(values.clone(), Arc::new(description.clone()), Some(tokenize))?;
            warnings.extend(called.log);
            called.value
        }
        (None, None) => bail!("there is no plan and no plugin that makes one"),
    };
    let plan_seconds = planning.elapsed().as_secs_f64();
    if method_plan.counts(&description).trained == 0 {
        bail!(
            "the plan of {} trains nothing: it freezes the head and chooses no parameter",
            spec.method.name
        );
    }
    if let (false, Some(checkpoint)) = (spec.model.reinitialise, &names) {
        init::check(config.as_ref(), &description, checkpoint)?;
        let shared = description.parameters.iter().flat_map(|parameter| config.aliases(&parameter.name));
        let shared: Vec<String> = shared.collect();
        let names = description.parameters.iter().map(|parameter| parameter.name.as_str());
        let unused = checkpoint.unused(names.chain(shared.iter().map(String::as_str)));
        if !unused.is_empty() {
            warnings.push(format!(
                "tensors of the checkpoint that this model does not use: {}",
                shortened(&unused)
            ));
        }
        let missing = description
            .parameters
            .iter()
            .filter(|parameter| parameter.head && !checkpoint.has(&parameter.name));
        let missing: Vec<String> = missing.map(|parameter| parameter.name.clone()).collect();
        if !missing.is_empty() {
            warnings.push(format!("new, and started at random: {}", shortened(&missing)));
        }
    }
    let room = data::room(&task_plan, config.as_ref(), method_plan.virtual_tokens())?;
    let tokenising = Tokenising {
        task: &task,
        plan: &task_plan,
        tokenizer: &tokenizer,
        config: config.as_ref(),
        room,
        max_bad_records: spec.data.max_bad_records,
        too_long: spec.data.too_long,
    };
    let splits = tokenising.all(&found, &mut warnings)?;
    let plans = Plans::new(config, description, task_plan, method_plan);
    let training =
        plans.training().with_context(|| format!("the plan of {} cannot be compiled", spec.method.name))?;
    Ok(Prepared { task, plans, splits, tokenizer, warnings, load_seconds, plan_seconds, model, training })
}

fn shortened(names: &[String]) -> String {
    match names.len() {
        0..=4 => names.join(", "),
        count => format!("{} and {} more", names[..3].join(", "), count - 3),
    }
}

fn check_task(plan: &TaskPlan, layout: &Layout) -> Result<()> {
    if plan.losses.is_empty() {
        bail!("the task declares no loss");
    }
    if plan.generation.is_some() && plan.head != Some(HeadKind::SequenceToSequence) {
        bail!("the task generates texts and asks for no head for sequence to sequence");
    }
    if layout.best_metric().is_none() {
        bail!("the task names no metric that chooses the best checkpoint");
    }
    Ok(())
}

impl Prepared {
    /// The split that trains.
    pub fn train_split(&self) -> Result<&Split> {
        let split = self.splits.iter().find(|split| split.usage == SplitUse::Train);
        split.ok_or_else(|| anyhow!("the task declares no split that trains"))
    }

    /// Names of the splits that are evaluated, in the task's order.
    pub fn evaluated(&self) -> Vec<String> {
        self.splits
            .iter()
            .filter(|split| split.usage != SplitUse::Train)
            .map(|split| split.name.clone())
            .collect()
    }

    /// The split by which the best checkpoint is chosen, and the metric.
    pub fn best_metric(&self) -> Option<BestMetric> {
        let split = self.splits.iter().find(|split| split.usage == SplitUse::Evaluate)?;
        let metric = self.task.layout.best_metric()?;
        Some(BestMetric {
            split: split.name.clone(),
            name: metric.name.clone(),
            higher_is_better: metric.higher_is_better,
        })
    }

    /// The noise that the task's sequence asks for.
    pub fn noise(&self, seed: u64) -> Result<Option<Noise>> {
        noise(&self.plans.task, self.plans.config.as_ref(), &self.tokenizer, seed)
    }

    /// The batches of a training.
    pub fn sampler(&self, spec: &CellSpec) -> Result<Sampler<'_>> {
        Ok(self.any_sampler(spec)?.with_rows(self.largest(spec)?.most_rows))
    }

    /// The batches of a training, whatever the rows of its micro-batches.
    fn any_sampler(&self, spec: &CellSpec) -> Result<Sampler<'_>> {
        let virtual_tokens = self.plans.method.virtual_tokens() as u32;
        let dataset = &self.train_split()?.dataset;
        Ok(Sampler::new(dataset, &spec.training, virtual_tokens, self.noise(spec.seed)?, spec.seed))
    }

    /// The largest effective batch.
    fn largest(&self, spec: &CellSpec) -> Result<LargestBatch> {
        let (dataset, virtual_tokens) = (&self.train_split()?.dataset, self.plans.method.virtual_tokens());
        let (pieces, rows) = dataset.largest(virtual_tokens);
        let longest = dataset.longest() + virtual_tokens;
        let targets = dataset.most_targets();
        let masked = self.plans.task.sequences.first().and_then(|sequence| sequence.mask_probability);
        // Twice the expected share: a batch of many sequences stays below it.
        let masked = masked.map_or(0, |share| (rows as f64 * (2.0 * share).min(1.0)).ceil() as usize);
        let (examples, words) = (self.any_sampler(spec)?.largest_batch(), dataset.most_words());
        let mut largest =
            LargestBatch { examples, rows, pieces, longest, masked, targets, words, most_rows: 0 };
        largest.most_rows = micro_batch_rows(&self.training, &largest, spec.target());
        Ok(largest)
    }

    /// Examples of a micro-batch, and the memory that it takes.
    pub fn micro_batch(&self, spec: &CellSpec) -> Result<(usize, MemoryEstimate)> {
        let largest = self.largest(spec)?;
        let parts = spec.training.gradient_accumulation_steps.max(1) as usize;
        let mut micro_batch = largest.examples.div_ceil(parts).max(1);
        if self.plans.task.reads_examples_alone() {
            micro_batch = 1;
        }
        if let (true, Some(available)) = (spec.training.auto_find_batch_size, spec.device.available_memory()?)
        {
            let available = available - available / MEMORY_MARGIN;
            let parameters = &self.plans.parameters;
            let fits = micro_batch_that_fits(&self.training, parameters, &largest, available, spec.target());
            micro_batch = micro_batch.min(fits);
        }
        let memory = estimate(&self.training, &self.plans.parameters, &largest, micro_batch, spec.target());
        Ok((micro_batch, memory))
    }

    /// What will train, shown before it does.
    pub fn summary(&self, spec: &CellSpec) -> Result<Summary> {
        let (micro_batch, memory) = self.micro_batch(spec)?;
        let mut warnings = self.warnings.clone();
        let whole = self.largest(spec)?.examples;
        let asked = whole.div_ceil(spec.training.gradient_accumulation_steps.max(1) as usize);
        if micro_batch < asked && !self.plans.task.reads_examples_alone() {
            warnings.push(format!(
                "memory does not suffice for micro-batches of {asked} examples; {micro_batch} are taken, and the effective batch of {whole} stays"
            ));
        }
        Ok(Summary {
            counts: self.plans.method.counts(&self.plans.model),
            examples: self
                .splits
                .iter()
                .map(|split| (split.name.clone(), split.dataset.len() as u64))
                .collect(),
            steps: total_steps(&spec.training, self.sampler(spec)?.steps_of_epoch(0)?),
            estimated_memory_bytes: memory.total(),
            device: Some((spec.device, spec.device.available_memory()?)),
            plugin_seconds: self.load_seconds + self.plan_seconds,
            best_metric: self.best_metric(),
            warnings,
        })
    }

    /// The engine with all parameters at their start.
    pub fn engine(&mut self, spec: &CellSpec) -> Result<Engine> {
        self.engine_on(spec, spec.device.backend(spec.threads, spec.precision)?)
    }

    /// The engine on a backend that notes how long each instruction takes.
    pub fn timed_engine(&mut self, spec: &CellSpec, times: Times) -> Result<Engine> {
        let backend = spec.device.backend(spec.threads, spec.precision)?;
        self.engine_on(spec, Box::new(Timed::new(backend, times)))
    }

    fn engine_on(&mut self, spec: &CellSpec, backend: Box<dyn Backend>) -> Result<Engine> {
        let blocks = match spec.model.reinitialise {
            true => initial_blocks(&self.plans, &Reinitialised, true, spec.seed)?,
            false => {
                let prefix = self.plans.config.prefix(self.plans.task.head);
                let checkpoint = Checkpoint::open(&self.model, prefix)?;
                initial_blocks(&self.plans, &checkpoint, false, spec.seed)?
            }
        };
        let engine = Engine::new(self.plans.clone(), blocks, backend)?;
        machine::give_back_freed_memory();
        Ok(engine)
    }

    /// The folder of the model.
    pub fn model_folder(&self) -> &Path {
        &self.model
    }
}

/// The noise of the first epoch that a task's sequence asks for.
///
/// # Errors
/// A tokenizer without a token for what is masked.
pub fn noise(
    plan: &TaskPlan,
    config: &dyn Architecture,
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<Option<Noise>> {
    let Some(sequence) = plan.sequences.first() else { return Ok(None) };
    let Some(probability) = sequence.mask_probability else { return Ok(None) };
    Ok(Some(Noise {
        seed,
        epoch: 0,
        probability,
        shift: sequence.shift_positions.unwrap_or(0),
        positions: config.positions().map_or(u32::MAX, |positions| positions as u32),
        mask_id: tokenizer.mask_id()?,
        vocabulary: config.vocabulary() as u32,
    }))
}
