//! `host score`: the metrics of anybody's predictions.

use anyhow::{Context, Result};
use serde_json::json;

use super::arguments::ScoreArguments;
use super::terminal;
use crate::config::raw::Raw;
use crate::config::resolved;
use crate::runs::table::{PLAIN, draw};
use crate::runs::words;
use crate::session::{self, Scored};

pub fn score(arguments: &ScoreArguments) -> Result<()> {
    let mut raw = Raw::parse("score", String::new())?;
    raw.set(&format!("task.name={}", arguments.task))?;
    for argument in &arguments.set {
        raw.set(&format!("task.{argument}"))?;
    }
    let catalogue = arguments.plugins.catalogue().context("the plugins cannot be listed")?;
    let task = resolved::task(&raw, &catalogue)?;
    let scored = session::score(&task, &arguments.gold, &arguments.pred)?;
    scored.warnings.iter().for_each(|sentence| terminal::warning(sentence));
    if let Some(label) = &scored.confidence.constant {
        terminal::warning(&format!("every prediction is \"{label}\": nothing has been learned"));
    }
    match arguments.json {
        true => {
            let whole = json!({
                "examples": scored.examples,
                "metrics": scored.metrics,
                "confidence": scored.confidence,
            });
            terminal::print(&format!("{}\n", serde_json::to_string_pretty(&whole)?))
        }
        false => terminal::print(&shown(&scored)),
    }
}

fn shown(scored: &Scored) -> String {
    let interval = |name: &str| {
        let known = scored.confidence.intervals.iter().find(|interval| interval.metric == name);
        known.map_or("–".to_string(), |known| format!("[{:.4}, {:.4}]", known.low, known.high))
    };
    let row = |(name, value): &(String, f64)| vec![name.clone(), format!("{value:.6}"), interval(name)];
    let rows: Vec<Vec<String>> = scored.metrics.0.iter().map(row).collect();
    let heads = ["metric", "score", "95% interval"].map(String::from);
    let mut text = draw(PLAIN, &heads, &rows);
    for confusion in &scored.confidence.confusions {
        let (heads, rows) = confusion.cells();
        text.push_str(&draw(PLAIN, &heads, &rows));
    }
    format!("{text}{}\n", words::plural(scored.examples as u64, "example"))
}
