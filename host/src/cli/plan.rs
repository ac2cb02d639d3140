//! `host plan`: what would be trained.

use anyhow::{Context, Result};

use super::arguments::PlanArguments;
use super::progress::summary_lines;
use super::{sources, terminal};
use crate::session;

pub fn plan(arguments: &PlanArguments) -> Result<()> {
    let config = sources::ready(&arguments.config)?;
    let cells = config.cells();
    // A plan does not depend on the seed: the first stands for all.
    for (number, cells) in cells.chunks(config.seeds.len()).enumerate() {
        let Some(spec) = cells.first() else { continue };
        let report = session::plan_cell(spec).with_context(|| format!("{} has no plan", spec.label))?;
        let mut text = String::from(if number > 0 { "\n" } else { "" });
        text.push_str(&format!("{} ({} plugin {})\n", spec.label, spec.method.origin, spec.method.name));
        for line in summary_lines(&report.summary) {
            text.push_str(&format!("  {line}\n"));
        }
        if !arguments.summary {
            text.push_str(&format!("\n{}\n", report.text.trim_end()));
        }
        terminal::print(&text)?;
    }
    Ok(())
}
