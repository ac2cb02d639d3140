//! `host compare`: the table of finished runs, again or together.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::arguments::CompareArguments;
use super::terminal;
use crate::runs::comparison::Comparison;
use crate::runs::directory::finished_cells;
use crate::runs::{report, table};

pub fn compare(arguments: &CompareArguments) -> Result<()> {
    let mut cells = Vec::new();
    let mut names = Vec::new();
    let mut configs = String::new();
    for path in &arguments.runs {
        let name = name(path);
        let mut found = finished_cells(path)?;
        if arguments.runs.len() > 1 {
            for cell in &mut found {
                cell.record.spec.label = format!("{name}/{}", cell.record.spec.label);
            }
        }
        cells.append(&mut found);
        // The directory of a cell has no config of its own.
        configs.push_str(&fs::read_to_string(path.join("config.toml")).unwrap_or_default());
        names.push(name);
    }
    let comparison = Comparison::new(cells, arguments.split.as_deref());
    if let (Some(split), true) = (&arguments.split, comparison.metrics.is_empty()) {
        bail!("no cell has scores on a split `{split}`");
    }
    terminal::print(&table::for_terminal(&comparison, terminal::width()))?;
    if let Some(out) = &arguments.out {
        fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        table::write(&comparison, out)?;
        report::write(&comparison, &names.join(", "), &configs, out)?;
        terminal::note(&format!("report: {}", out.join("report.html").display()));
    }
    Ok(())
}

/// The last part of a path, however it is written.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into()
}
