//! `host eval`: what was saved, loaded and evaluated again.

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table};
use host_engine::device::Precision;

use super::arguments::EvalArguments;
use super::progress::Reporter;
use super::{info, sources, terminal};
use crate::cell::{CellSpec, SplitMetrics};
use crate::runs::directory::finished_cells;
use crate::runs::record::Finished;
use crate::runs::table::PLAIN;
use crate::runs::words;
use crate::session;

/// Other machines and thread counts round in other places; what is further
/// apart than this is another result.
const TOLERANCE: f64 = 1e-6;

/// A metric that was recorded, and what it is now.
#[derive(Debug, PartialEq)]
struct Line {
    split: String,
    metric: String,
    recorded: Option<f64>,
    again: Option<f64>,
}

impl Line {
    fn agrees(&self) -> bool {
        match (self.recorded, self.again) {
            (Some(recorded), Some(again)) => {
                (recorded - again).abs() <= TOLERANCE * recorded.abs().max(again.abs()).max(1.0)
            }
            _ => false,
        }
    }
}

pub fn eval(arguments: &EvalArguments) -> Result<()> {
    let cells = finished_cells(&arguments.run)?;
    let (mut compared, mut apart) = (0, 0);
    let mut others: Vec<String> = Vec::new();
    for cell in &cells {
        let title = title(cell, &cells);
        terminal::heading(&title);
        cell.check()?;
        let spec = arguments.elsewhere.applied(&cell.record.spec)?;
        let spec = &sources::again(&computed_on(spec, arguments.device.as_deref())?)?;
        for sentence in session::changed(spec, &cell.record.digests)? {
            terminal::warning(&sentence);
            if !others.contains(&sentence) {
                others.push(sentence);
            }
        }
        let mut progress = Reporter::showing();
        let again = session::evaluate_cell(spec, &cell.directory, &mut progress);
        progress.finish();
        let again = again.with_context(|| format!("{} cannot be evaluated", cell.directory.display()))?;
        let lines = lines(&cell.record.result.metrics, &again);
        compared += lines.len();
        apart += lines.iter().filter(|line| !line.agrees()).count();
        terminal::print(&format!("{title}\n{}\n", draw(&lines)))?;
    }
    if apart > 0 {
        let because = others.iter().map(|sentence| format!("\n  {sentence}")).collect::<String>();
        bail!(
            "{apart} of {} differ from what was recorded{because}",
            words::plural(compared as u64, "metric")
        );
    }
    terminal::print(&format!(
        "{} of {} agree with what was recorded\n",
        words::plural(compared as u64, "metric"),
        words::plural(cells.len() as u64, "cell")
    ))
}

/// The cell on a device of this machine, in fp32 where that does not compute in the precision
/// of the training.
fn computed_on(mut spec: CellSpec, device: Option<&str>) -> Result<CellSpec> {
    let wanted = match device {
        None => Some(spec.device),
        Some("auto") => None,
        Some(name) => Some(name.parse().context("--device")?),
    };
    let usable = info::usable(wanted);
    spec.device = match device {
        Some(_) => usable?,
        None => usable.with_context(|| {
            format!("{} was trained on {}; --device cpu evaluates without it", spec.title(), spec.device)
        })?,
    };
    if spec.device.computes(spec.precision).is_err() {
        terminal::note(&format!("{} computes in fp32; it was {} in training", spec.device, spec.precision));
        spec.precision = Precision::Fp32;
    }
    Ok(spec)
}

/// What a cell is called, with its folder's name where another one is called the same.
fn title(cell: &Finished, all: &[Finished]) -> String {
    let title = cell.record.spec.title();
    match all.iter().filter(|other| other.record.spec.title() == title).count() {
        0 | 1 => title,
        _ => format!("{title}, {}", cell.directory.file_name().unwrap_or_default().display()),
    }
}

/// Every metric that is in either.
fn lines(recorded: &[SplitMetrics], again: &[SplitMetrics]) -> Vec<Line> {
    let get = |splits: &[SplitMetrics], split: &str, metric: &str| {
        splits.iter().find(|evaluated| evaluated.split == split)?.metrics.get(metric)
    };
    let mut lines: Vec<Line> = Vec::new();
    for evaluated in recorded.iter().chain(again) {
        for (metric, _) in &evaluated.metrics.0 {
            let split = &evaluated.split;
            if !lines.iter().any(|line| line.split == *split && line.metric == *metric) {
                lines.push(Line {
                    split: split.clone(),
                    metric: metric.clone(),
                    recorded: get(recorded, split, metric),
                    again: get(again, split, metric),
                });
            }
        }
    }
    lines
}

fn draw(lines: &[Line]) -> String {
    let value = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.6}"));
    let row = |line: &Line| {
        let verdict = match (line.agrees(), line.recorded == line.again) {
            (true, true) => "the same",
            (true, false) => "agrees",
            (false, _) => "differs",
        };
        vec![
            line.split.clone(),
            line.metric.clone(),
            value(line.recorded),
            value(line.again),
            verdict.to_string(),
        ]
    };
    let mut table = Table::new();
    table.load_style(PLAIN).force_no_tty();
    table.set_header(["split", "metric", "recorded", "again", ""]).add_rows(lines.iter().map(row));
    for column in table.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Metrics;

    fn evaluated(split: &str, metrics: &[(&str, f64)]) -> SplitMetrics {
        let metrics = metrics.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        SplitMetrics { split: split.into(), metrics: Metrics(metrics) }
    }

    #[test]
    fn what_is_apart_or_missing_differs() {
        let recorded = [evaluated("dev", &[("accuracy", 0.5), ("loss", 1000.0), ("f1", 0.25)])];
        let again = [
            evaluated("dev", &[("accuracy", 0.5 + 1e-9), ("loss", 1000.01), ("f1", 0.25)]),
            evaluated("test", &[("f1", 0.5)]),
        ];
        let lines = lines(&recorded, &again);
        let agreeing: Vec<bool> = lines.iter().map(Line::agrees).collect();
        assert_eq!(agreeing, [true, false, true, false]);
        let table = draw(&lines);
        let verdicts: Vec<&str> = table
            .lines()
            .filter_map(|line| {
                ["the same", "agrees", "differs"].into_iter().find(|verdict| line.ends_with(verdict))
            })
            .collect();
        assert_eq!(verdicts, ["agrees", "differs", "the same", "differs"], "{table}");
    }
}
