//! `host fetch`: what a config names at the hub, brought before the job goes to
//! where there is no network.

use anyhow::Result;

use super::arguments::FetchArguments;
use super::sources::{self, Found};
use super::terminal;
use crate::runs::words;

pub fn fetch(arguments: &FetchArguments) -> Result<()> {
    let mut config = arguments.config.resolve()?;
    let found = sources::bring(&mut config)?;
    if found.is_empty() {
        return terminal::print(&format!(
            "nothing to fetch: the model is {} and the data are {}, and neither is the hub's\n",
            config.model.path, config.data.path
        ));
    }
    found.iter().try_for_each(|found| terminal::print(&line(found)))
}

fn line(found: &Found) -> String {
    let brought = &found.brought;
    format!(
        "{} {} at {}: {}, {}, in {}\n",
        found.key,
        found.repository.name,
        brought.snapshot.commit,
        words::plural(brought.files.len() as u64, "file"),
        words::bytes(brought.bytes as f64),
        brought.snapshot.folder.display()
    )
}
