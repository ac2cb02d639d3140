//! The plugins of a cell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use host_engine::models::Architecture;
use host_ir::model::ModelDescription;
use host_ir::settings::Values;
use host_ir::task::TaskPlan;
use host_plugin::{Kind, Limits, Plugin, Task};

use crate::cell::{CellSpec, Origin, PluginSpec};
use crate::plugins::EMBEDDED;

/// Loads a plugin as its spec names it, and its settings.
fn plugin(spec: &PluginSpec, kind: Kind) -> Result<(Plugin, Values)> {
    let plugin = match &spec.origin {
        Origin::Embedded => {
            let found = EMBEDDED.iter().find(|(name, _)| *name == spec.name);
            let (_, bytes) =
                found.ok_or_else(|| anyhow!("this program carries no plugin called {}", spec.name))?;
            Plugin::load(bytes, "embedded", Limits::default())?
        }
        Origin::File(path) => host_plugin::catalogue::load(path)?,
    };
    if plugin.digest != spec.digest {
        bail!(
            "the plugin {} ({}) is another one than when this run was planned; start the run again",
            spec.name,
            spec.origin
        );
    }
    let values = plugin.description.resolve(&spec.settings)?;
    Ok((plugin.expect(kind)?, values))
}

/// The task of a spec with its layout.
pub fn task(spec: &PluginSpec) -> Result<Task> {
    let (plugin, values) = plugin(spec, Kind::Task)?;
    Ok(plugin.task(values)?)
}

/// What the task plans for a model, of which it knows the facts, and for splits of so many
/// examples.
pub fn task_plan(task: &Task, config: &dyn Architecture, counts: BTreeMap<String, u64>) -> Result<TaskPlan> {
    let facts = ModelDescription {
        architecture: config.name().into(),
        facts: config.facts().clone(),
        ..Default::default()
    };
    Ok(task.plan(Arc::new(facts), counts)?.value)
}

/// A cell's plugins, and how long they took to load.
pub struct Plugins {
    pub task: Task,
    /// The method with its settings, where a plan is asked for.
    pub method: Option<(Plugin, Values)>,
    pub load_seconds: f64,
}

/// Loads a cell's plugins; its method's where a plan is asked for.
pub fn plugins(spec: &CellSpec, plans: bool) -> Result<Plugins> {
    let start = Instant::now();
    let task = task(&spec.task)?;
    let method = if plans { Some(plugin(&spec.method, Kind::Method)?) } else { None };
    Ok(Plugins { task, method, load_seconds: start.elapsed().as_secs_f64() })
}
