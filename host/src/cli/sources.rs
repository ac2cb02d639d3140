//! Model and data of a config that are named as the hub names them: found or
//! brought before anything reads them, so that the session meets folders alone.

use std::io::IsTerminal;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use super::arguments::ConfigArguments;
use super::progress::{INTERVAL, bar};
use super::{info, terminal};
use crate::cell::{CellSpec, DataSpec, ModelSpec, PluginSpec, Repository, Source};
use crate::config::Config;
use crate::hub::{Brought, Hub, Progress, Wanted};
use crate::runs::words;
use crate::session;

/// What was brought or found, and under which key it stands.
pub struct Found {
    pub key: &'static str,
    pub repository: Repository,
    pub brought: Brought,
}

/// The config of a command line, with its device chosen and its model and its
/// data in place.
pub fn ready(arguments: &ConfigArguments) -> Result<Config> {
    let mut config = arguments.resolve()?;
    info::choose_device(&mut config)?;
    bring(&mut config)?;
    Ok(config)
}

/// Brings what a config names by the hub's names.
pub fn bring(config: &mut Config) -> Result<Vec<Found>> {
    bring_all(&mut config.model, &mut config.data, &config.task)
}

/// The cell with its model and its data in place, as the commits that it was
/// trained with.
pub fn again(spec: &CellSpec) -> Result<CellSpec> {
    let mut spec = spec.clone();
    for source in [&mut spec.model.path, &mut spec.data.path] {
        if let Source::Hub(Repository { revision, snapshot, .. }) = source {
            *revision = snapshot.take().map(|snapshot| snapshot.commit).or(revision.take());
        }
    }
    bring_all(&mut spec.model, &mut spec.data, &spec.task)?;
    Ok(spec)
}

fn bring_all(model: &mut ModelSpec, data: &mut DataSpec, task: &PluginSpec) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    if let Source::Hub(repository) = &mut model.path {
        let wanted = Wanted::Model { further: session::FURTHER_MODEL_FILES };
        found.push(bring_one(repository, &wanted, "model")?);
    }
    let files = data.overrides();
    if let Source::Hub(repository) = &mut data.path {
        let layout = session::layout(task)?;
        let wanted = Wanted::Data { layout: &layout, files: &files };
        found.push(bring_one(repository, &wanted, "data")?);
    }
    Ok(found)
}

fn bring_one(repository: &mut Repository, wanted: &Wanted<'_>, key: &'static str) -> Result<Found> {
    let mut transfers = Transfers::new();
    let brought = Hub::from_environment().bring(repository, wanted, &mut transfers);
    transfers.finish();
    let brought = brought.with_context(|| format!("{key}.name = \"{}\" cannot be had", repository.name))?;
    repository.snapshot = Some(brought.snapshot.clone());
    Ok(Found { key, repository: repository.clone(), brought })
}

/// Shows files as they come: a bar on a terminal, plain lines in a log.
struct Transfers {
    bar: Option<ProgressBar>,
    name: String,
    bytes: Option<u64>,
    spoke: Instant,
}

impl Transfers {
    fn new() -> Transfers {
        Transfers {
            bar: std::io::stderr().is_terminal().then(|| bar("  {bar:28} {bytes}/{total_bytes} {msg}")),
            name: String::new(),
            bytes: None,
            spoke: Instant::now(),
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::note(line)),
            None => terminal::note(line),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Transfers {
    fn file(&mut self, name: &str, bytes: Option<u64>) {
        (self.name, self.bytes, self.spoke) = (name.into(), bytes, Instant::now());
        match &self.bar {
            Some(bar) => {
                bar.set_length(bytes.unwrap_or(0));
                bar.set_position(0);
                bar.set_message(name.to_string());
            }
            None => {
                let size = bytes.map_or(String::new(), |bytes| format!(", {}", words::bytes(bytes as f64)));
                self.say(&format!("bringing {name}{size}"));
            }
        }
    }

    fn received(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        } else if self.spoke.elapsed() >= INTERVAL {
            self.spoke = Instant::now();
            let of = self.bytes.map_or(String::new(), |of| format!(" of {}", words::bytes(of as f64)));
            self.say(&format!("  {}{of} of {}", words::bytes(bytes as f64), self.name));
        }
    }

    fn message(&mut self, sentence: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::warning(sentence)),
            None => terminal::warning(sentence),
        }
    }
}
