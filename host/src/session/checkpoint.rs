//! The checkpoint of a cell in training: beside what the engine's has, what was told,
//! measured and predicted so far.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host_engine::data::kept::Kept;
use host_engine::engine::Engine;
use host_engine::train::checkpoint::{self, Attachment, Checkpoint};
use host_engine::train::state::TrainerState;
use serde::{Deserialize, Serialize};

use crate::cell::{EarlierParts, EpochRecord, SplitMetrics};
use crate::runs::record::CHECKPOINT;
use crate::session::evaluate::Evaluated;
use crate::session::prepare::Prepared;
use crate::session::scores::Scores;

/// What is known of a training beside the trainer's state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Notes {
    /// Rows of all steps.
    pub tokens: u64,
    pub epochs: Vec<EpochRecord>,
    pub warnings: Vec<String>,
    /// The bits of the best value of the metric that chooses.
    pub best_value: Option<u64>,
    /// The parts of the training until this checkpoint.
    pub parts: EarlierParts,
}

/// Where a cell's checkpoint is.
pub fn path(directory: &Path) -> PathBuf {
    directory.join(CHECKPOINT)
}

/// Writes the checkpoint of a cell, with the predictions of the best epoch.
pub fn write(
    directory: &Path,
    identity: &str,
    engine: &Engine,
    state: &TrainerState,
    notes: &Notes,
    best: &[Evaluated],
) -> Result<()> {
    let attachments = best.iter().map(|evaluated| Attachment {
        name: evaluated.metrics.split.clone(),
        bytes: evaluated.predictions.line_bytes(),
        parts: Box::new(evaluated.predictions.lines()),
    });
    let notes = serde_json::to_value(notes)?;
    checkpoint::write(&path(directory), identity, engine, state, notes, attachments.collect())?;
    Ok(())
}

/// A checkpoint from which a training can go on.
pub struct Begun {
    checkpoint: Checkpoint,
    pub notes: Notes,
    /// The splits of the best epoch.
    pub best: Vec<Evaluated>,
}

impl Begun {
    /// The checkpoint of a cell, if there is one.
    ///
    /// # Errors
    /// One that cannot be used.
    pub fn find(
        directory: &Path,
        identity: &str,
        engine: &Engine,
        prepared: &Prepared,
    ) -> Result<Option<Begun>> {
        let path = path(directory);
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(&path, identity)?;
        checkpoint.check(engine)?;
        let notes = Notes::deserialize(checkpoint.caller())
            .with_context(|| format!("{}: another version has written the checkpoint", path.display()))?;
        let best = checkpoint.attachments().map(|split| evaluated(&checkpoint, split, prepared));
        let best = best.collect::<Result<_>>()?;
        Ok(Some(Begun { checkpoint, notes, best }))
    }

    /// Puts the engine where the checkpoint was written.
    ///
    /// # Errors
    /// Reading the file; memory that is not to be had.
    pub fn restore(&self, engine: &mut Engine) -> Result<TrainerState> {
        Ok(self.checkpoint.restore(engine)?)
    }
}

/// What an evaluation came to, from its predictions.
fn evaluated(checkpoint: &Checkpoint, name: &str, prepared: &Prepared) -> Result<Evaluated> {
    let Some(split) = prepared.splits.iter().find(|split| split.name == name) else {
        bail!("the checkpoint has predictions of {name}, and the data have no such split")
    };
    let predictions = Kept::from_lines(checkpoint.attachment(name)?)?;
    let scores = Scores::of(&prepared.task, &split.examples, predictions.iter())?;
    let metrics = SplitMetrics { split: name.into(), metrics: scores.metrics(&prepared.task)? };
    Ok(Evaluated { metrics, predictions, scores })
}
