//! Digests of a cell's files, and what is another file than when it was trained.

use std::path::PathBuf;

use anyhow::Result;
use host_engine::REVISION;
use host_engine::data::find::{self, FoundSplit};
use host_engine::files;
use host_engine::files::checkpoint::weight_files;
use host_engine::text;
use host_plugin::plugin::CONTRACT;

use crate::cell::{CellSpec, Digests};
use crate::embedded;
use crate::session::load;

/// Digests of all that the spec names by path.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn digests(spec: &CellSpec) -> Result<Digests> {
    let model = embedded::model(&spec.model.path)?;
    let names = ["config.json", "generation_config.json"].into_iter().chain(text::FILES);
    let mut model_files: Vec<PathBuf> =
        names.map(|name| model.join(name)).filter(|path| path.is_file()).collect();
    if !spec.model.reinitialise {
        model_files.extend(weight_files(&model)?);
    }
    let data: Vec<String> = splits(spec)?.iter().map(entry).collect::<Result<_, files::FileError>>()?;
    Ok(Digests {
        model: files::digest(&model_files)?,
        data: data.join(" "),
        program: format!("contract {CONTRACT}, engine {} revision {}", env!("CARGO_PKG_VERSION"), REVISION),
    })
}

/// The splits that a spec's data have.
fn splits(spec: &CellSpec) -> Result<Vec<FoundSplit>> {
    let task = load::task(&spec.task)?;
    Ok(find::find(&task.layout, &embedded::data(&spec.data.path)?, &spec.data.overrides())?)
}

/// The files of a spec's data, by split.
///
/// # Errors
/// A split without a file.
pub fn data_files(spec: &CellSpec) -> Result<Vec<(String, Vec<PathBuf>)>> {
    Ok(splits(spec)?.into_iter().map(|split| (split.name, split.files)).collect())
}

/// A split's name and the digest of its files, as [`Digests::data`] has them.
fn entry(split: &FoundSplit) -> Result<String, files::FileError> {
    Ok(format!("{} {}", split.name, files::digest(&split.files)?))
}

/// Sentences about files of a cell that are not what they were when these were its digests.
///
/// # Errors
/// A file that is missing or cannot be read.
pub fn changed(spec: &CellSpec, recorded: &Digests) -> Result<Vec<String>> {
    let now = digests(spec)?;
    let mut sentences = Vec::new();
    if now.data != recorded.data {
        let known = format!(" {} ", recorded.data);
        for split in splits(spec)? {
            if !known.contains(&format!(" {} ", entry(&split)?)) {
                let files: Vec<String> = split.files.iter().map(|file| file.display().to_string()).collect();
                let (files, name) = (files.join(", "), &split.name);
                sentences.push(format!("{files} is not what it was in training (split {name})"));
            }
        }
        // All that are there are what they were.
        if sentences.is_empty() {
            sentences.push(format!("{} has not the splits that it had in training", spec.data.path));
        }
    }
    if now.model != recorded.model {
        sentences.push(format!("the model in {} is not what it was in training", spec.model.path));
    }
    Ok(sentences)
}
