//! The embedded model and data, as plain folders for the rest of the program.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cell::Source;

/// The folder of a model.
pub fn model(source: &Source) -> Result<PathBuf> {
    match source {
        Source::Path(path) => Ok(path.clone()),
        Source::Embedded(_) => bail!("no embedded model"),
    }
}

/// The folder of data.
pub fn data(source: &Source) -> Result<PathBuf> {
    match source {
        Source::Path(path) => Ok(path.clone()),
        Source::Embedded(_) => bail!("no embedded data"),
    }
}
