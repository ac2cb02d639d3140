//! Where the things of a finished cell are, on a machine or in a folder that it was not
//! trained on or in.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::PluginFolder;
use crate::cell::{CellSpec, Origin, PluginKind, PluginSpec, Source};
use crate::config::resolved::threads_of_machine;

#[derive(Debug, Args)]
pub struct Elsewhere {
    /// The folder in which the model is now
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    /// The folder in which the data are now
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Threads that compute [default: as in training, or all cores where those are fewer]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    #[command(flatten)]
    pub plugins: PluginFolder,
}

impl Elsewhere {
    /// The cell with what is elsewhere in its place. A plugin's file that is not where it
    /// was is looked for in the folder of further plugins.
    ///
    /// # Errors
    /// A folder or a plugin that is not there.
    pub fn applied(&self, spec: &CellSpec) -> Result<CellSpec> {
        let mut spec = spec.clone();
        for (given, source) in [(&self.model, &mut spec.model.path), (&self.data, &mut spec.data.path)] {
            let Some(folder) = given else { continue };
            if !folder.is_dir() {
                bail!("there is no folder {}", folder.display());
            }
            *source = Source::Path(folder.clone());
        }
        self.find(&mut spec.task, PluginKind::Task)?;
        self.find(&mut spec.method, PluginKind::Method)?;
        spec.threads = match self.threads {
            Some(threads) => threads as usize,
            None => spec.threads.min(threads_of_machine()),
        };
        Ok(spec)
    }

    /// Names the file in which a plugin is.
    fn find(&self, plugin: &mut PluginSpec, kind: PluginKind) -> Result<()> {
        let Origin::File(recorded) = &plugin.origin else { return Ok(()) };
        if self.plugins.plugin_dir.is_none() && recorded.is_file() {
            return Ok(());
        }
        let all = self.plugins.catalogue()?;
        let Some(found) =
            all.iter().find(|found| found.kind == kind && found.description.name == plugin.name)
        else {
            bail!(
                "the {kind} plugin {} is not in {}, where it was in training; --plugin-dir names the folder in which it is",
                plugin.name,
                recorded.display()
            );
        };
        plugin.origin = found.origin.clone();
        Ok(())
    }
}
