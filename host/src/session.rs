//! The one place where engine and plugins meet: a cell is planned, trained and
//! evaluated here.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cell::{CellResult, CellSpec, Digests, PlanReport, Plugin, Progress, SplitMetrics};

const ABSENT: &str = "this build has no engine and no plugins; build one that has";

/// Every plugin that is installed: the embedded ones, then those of the folder.
///
/// # Errors
/// A file of the folder that is no plugin; a name that two plugins have.
pub fn catalogue(_plugin_dir: Option<&Path>) -> Result<Vec<Plugin>> {
    bail!(ABSENT)
}

/// The plugin in a file, checked as one that is installed would be.
pub fn inspect(_file: &Path) -> Result<Plugin> {
    bail!(ABSENT)
}

/// Digests of all that the spec names by path.
pub fn digests(_spec: &CellSpec) -> Result<Digests> {
    bail!(ABSENT)
}

/// Plans a cell without training it.
pub fn plan_cell(_spec: &CellSpec) -> Result<PlanReport> {
    bail!(ABSENT)
}

/// Trains a cell and writes what can be loaded again into the directory.
pub fn train_cell(_spec: &CellSpec, _directory: &Path, _progress: &mut dyn Progress) -> Result<CellResult> {
    bail!(ABSENT)
}

/// Loads what `train_cell` has written and evaluates it again.
pub fn evaluate_cell(
    _spec: &CellSpec,
    _directory: &Path,
    _progress: &mut dyn Progress,
) -> Result<Vec<SplitMetrics>> {
    bail!(ABSENT)
}
