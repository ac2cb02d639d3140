//! The one place where engine and plugins meet: a cell is planned, trained and
//! evaluated here.

mod baseline;
mod bench;
mod checkpoint;
mod data;
mod digests;
mod duplicates;
mod evaluate;
mod inspect;
mod load;
mod merged_config;
mod predictions;
mod prepare;
mod resample;
mod saved;
mod score;
mod scores;
mod smoke;
mod train;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use host_engine::text;
use host_ir::task::Layout;
use host_plugin::{Catalogue, Entry, Kind};

use crate::cell::{
    CellResult, CellSpec, Origin, PlanReport, Plugin, PluginKind, PluginSpec, Progress, SplitMetrics,
};
use crate::plugins::EMBEDDED;

/// Files of a model, beside its configuration and its weights, that are read
/// where they are there.
pub const FURTHER_MODEL_FILES: &[&str] = &text::FILES;

pub use bench::measure;
pub use digests::{changed, data_files, digests};
pub use inspect::describe_data;
pub use saved::merge_cell;
pub use score::{Scored, score};
pub use smoke::smoke;

fn described(entry: &Entry) -> Plugin {
    Plugin {
        kind: match entry.plugin.kind {
            Kind::Method => PluginKind::Method,
            Kind::Task => PluginKind::Task,
        },
        description: entry.plugin.description.clone(),
        digest: entry.plugin.digest.clone(),
        origin: match &entry.origin {
            host_plugin::Origin::Embedded => Origin::Embedded,
            host_plugin::Origin::File(path) => Origin::File(path.clone()),
        },
    }
}

/// Every plugin that is installed, the embedded ones, then those of the folder; and, as
/// sentences, what of the folder cannot be used.
///
/// # Errors
/// A folder that cannot be read.
pub fn catalogue(plugin_dir: Option<&Path>) -> Result<(Vec<Plugin>, Vec<String>)> {
    let folders: Vec<PathBuf> = plugin_dir.map(Path::to_path_buf).into_iter().collect();
    let found = Catalogue::find(EMBEDDED, &folders)?;
    let mut unusable: Vec<String> = found
        .broken
        .iter()
        .map(|(_, error)| format!("{error}; it is left out: build or copy the file again, or take it away"))
        .collect();
    unusable.extend(found.twice.iter().map(|twice| format!("{twice}; until then neither is used")));
    Ok((found.entries.iter().map(described).collect(), unusable))
}

/// The plugin in a file, checked as one that is installed would be.
///
/// # Errors
/// The file is no plugin.
pub fn inspect(file: &Path) -> Result<Plugin> {
    let plugin = host_plugin::catalogue::load(file)?;
    Ok(described(&Entry { plugin, origin: host_plugin::Origin::File(file.into()) }))
}

/// The layout of a task's data.
///
/// # Errors
/// A plugin that is not what it was, or fails.
pub fn layout(task: &PluginSpec) -> Result<Arc<Layout>> {
    Ok(load::task(task)?.layout)
}

/// Plans a cell without training it.
///
/// # Errors
/// All that can be wrong with plugins, model and data.
pub fn plan_cell(spec: &CellSpec) -> Result<PlanReport> {
    let prepared = prepare::prepare(spec)?;
    let summary = prepared.summary(spec)?;
    let plans = &prepared.plans;
    let text = host_ir::text::describe(&plans.model, &plans.task, &plans.method);
    Ok(PlanReport { summary, text })
}

/// Trains a cell and writes what can be loaded again into the directory. Where the directory
/// has a checkpoint of this identity, training goes on from it.
///
/// # Errors
/// All that can be wrong with plugins, model, data, memory and disk; [`crate::cell::Interrupted`]
/// where the progress was, and a checkpoint is written.
pub fn train_cell(
    spec: &CellSpec,
    identity: &str,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<CellResult> {
    train::train(spec, identity, directory, progress)
        .with_context(|| format!("{} was not trained", spec.title()))
}

/// Loads what `train_cell` has written and evaluates it again.
///
/// # Errors
/// Files that are missing or do not fit; all that can be wrong with model and data.
pub fn evaluate_cell(
    spec: &CellSpec,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<SplitMetrics>> {
    let mut prepared = prepare::prepare_saved(spec, directory)?;
    let mut engine = prepared.engine(spec)?;
    engine.restore(&saved::read_adapter(directory)?)?;
    let mut all = Vec::new();
    for split in prepared.evaluated() {
        all.push(prepared.evaluate(&mut engine, spec, &split, progress)?.metrics);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither of two plugins of one name is taken for the other, and all others stay.
    #[test]
    fn two_plugins_of_one_name_are_told_apart_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (_, bytes) = EMBEDDED.iter().find(|(name, _)| *name == "bitfit").unwrap();
        std::fs::write(folder.path().join("copy.wasm"), bytes).unwrap();
        let (plugins, unusable) = catalogue(Some(folder.path())).unwrap();
        assert_eq!(plugins.len(), EMBEDDED.len() - 1);
        assert!(plugins.iter().all(|plugin| plugin.description.name != "bitfit"));
        let [sentence] = unusable.as_slice() else { panic!("{unusable:?}") };
        assert!(sentence.starts_with("two method plugins are called bitfit: embedded and "), "{sentence}");
        assert!(sentence.ends_with("copy.wasm; take one away; until then neither is used"), "{sentence}");
    }
}
