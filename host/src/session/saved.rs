//! What is saved of a cell: the plan, the trained parameters, predictions; and
//! a merged model for others to load.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::safetensors::MmapedSafetensors;
use host_engine::engine::{Engine, NamedTensor};
use host_engine::files::write::{Precision, write_safetensors, write_whole};
use host_engine::merge::merged_tensors;
use host_engine::parameters::Part;
use host_engine::text;
use host_ir::method::{AnyParameter, MethodPlan};
use host_ir::task::{HeadKind, Layout};

use crate::cell::CellSpec;
use crate::runs::confidence::Resamples;
use crate::runs::record::{ADAPTER, PLAN};
use crate::session::merged_config::{Head, merged};
use crate::session::prepare::prepare_saved;

/// Writes the method's plan, of which the cell can be compiled again without
/// the plugin.
pub fn write_plan(directory: &Path, plan: &MethodPlan) -> Result<()> {
    Ok(write_whole(&directory.join(PLAN), &serde_json::to_vec(plan)?)?)
}

/// The saved plan.
pub fn read_plan(directory: &Path) -> Result<MethodPlan> {
    let path = directory.join(PLAN);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is no plan of this program", path.display()))
}

/// Writes what trains, and what the method has added and keeps frozen.
pub fn write_adapter(directory: &Path, spec: &CellSpec, engine: &Engine) -> Result<()> {
    let added = |part: &Part| matches!(part.parameter, AnyParameter::New(_));
    let tensors = engine.tensors(|part| part.trained || added(part))?;
    let listed: Vec<(&str, &[usize], &[f32])> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), &tensor.shape[..], &tensor.elements[..]))
        .collect();
    let metadata = BTreeMap::from([
        ("format".to_string(), "pt".to_string()),
        ("method".to_string(), spec.method.name.clone()),
        ("plugin_digest".to_string(), spec.method.digest.clone()),
    ]);
    Ok(write_safetensors(&directory.join(ADAPTER), &listed, &metadata, Precision::F32)?)
}

/// What was trained.
pub fn read_adapter(directory: &Path) -> Result<Vec<NamedTensor>> {
    let path = directory.join(ADAPTER);
    // SAFETY: the file is mapped read-only while it is read here.
    let file = unsafe { MmapedSafetensors::new(&path) }.with_context(|| path.display().to_string())?;
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let bytes = view.data().as_chunks::<4>().0;
        let elements = bytes.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        tensors.push(NamedTensor { name, shape: view.shape().to_vec(), elements });
    }
    Ok(tensors)
}

/// Writes what was measured on each draw of a split.
pub fn write_resamples(path: &Path, resamples: &Resamples) -> Result<()> {
    Ok(write_whole(path, &serde_json::to_vec(resamples)?)?)
}

/// Writes the model of a trained cell, its method merged into the weights, in
/// the hub's layout.
///
/// # Errors
/// A method that cannot be merged; files that cannot be read or written.
pub fn merge_cell(
    spec: &CellSpec,
    directory: &Path,
    out: &Path,
    precision: Precision,
    head: bool,
) -> Result<()> {
    if out.exists() && fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is there already and not empty; name another folder", out.display());
    }
    let mut prepared = prepare_saved(spec, directory)?;
    let mut engine = prepared.engine(spec)?;
    engine.restore(&read_adapter(directory)?)?;
    let tensors = merged_tensors(&engine)?;
    let kept: Vec<(&str, &[usize], &[f32])> = tensors
        .iter()
        .filter(|(is_head, _)| head || !is_head)
        .map(|(_, tensor)| (tensor.name.as_str(), &tensor.shape[..], &tensor.elements[..]))
        .collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    write_safetensors(&out.join("model.safetensors"), &kept, &metadata, precision)?;
    let path = prepared.model_folder().join("config.json");
    let base = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let kind = prepared.plans.task.head;
    let left_out = !head && tensors.iter().any(|(is_head, _)| *is_head);
    let head = Head { kind, left_out, classes: class_names(&prepared.task.layout, kind) };
    let config = merged(&base, head, precision).with_context(|| path.display().to_string())?;
    write_whole(&out.join("config.json"), config.as_bytes())?;
    for name in ["generation_config.json"].into_iter().chain(text::FILES) {
        let from = prepared.model_folder().join(name);
        if from.is_file() {
            write_whole(&out.join(name), &fs::read(&from)?)?;
        }
    }
    Ok(())
}

/// The names of what a head tells apart: those of the task's label of so many.
fn class_names(layout: &Layout, head: Option<HeadKind>) -> Option<&[String]> {
    let (HeadKind::Classification { classes } | HeadKind::TokenClassification { classes }) = head? else {
        return None;
    };
    let labels = layout.fields.iter().filter_map(|field| layout.labels(&field.name));
    labels.into_iter().find(|names| names.len() == classes as usize)
}
