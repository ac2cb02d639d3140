//! The report: one self-contained HTML page with the table, learning curves,
//! score against trained parameters, the config and the machine.

use std::path::Path;

use anyhow::{Context, Result};
use minijinja::{AutoEscape, Environment, context};

use super::chart::{COLOURS, Form, Series, chart};
use super::comparison::Comparison;
use super::record::{Finished, write_whole};
use super::{table, words};
use crate::confusion::Confusion;

/// Writes `report.html` into the directory. `config` is the text of the
/// resolved config.
pub fn write(comparison: &Comparison, title: &str, config: &str, directory: &Path) -> Result<()> {
    let page = page(comparison, title, config).context("the report cannot be made")?;
    write_whole(&directory.join("report.html"), &page)
}

fn page(comparison: &Comparison, title: &str, config: &str) -> Result<String, minijinja::Error> {
    let (heads, rows) = table::cells(comparison);
    let costs = heads.len() - comparison.metrics.len();
    let best = |row: usize, column: usize| column >= costs && comparison.is_best(row, column - costs);
    let cell = |row: usize, column: usize, text: &str| {
        // Deviations stand below, so that the table stays narrow.
        let (text, deviation) = match text.split_once(" ± ") {
            Some((mean, deviation)) if column > 0 => (mean, Some(deviation)),
            _ => (text, None),
        };
        context! { text, deviation, best => best(row, column) }
    };
    let rows: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(place, cells)| {
            let cells = cells.iter().enumerate().map(|(column, text)| cell(place, column, text));
            context! { colour => place % COLOURS, ring => place >= COLOURS, cells => cells.collect::<Vec<_>>() }
        })
        .collect();
    let mut machines: Vec<String> = comparison.cells.iter().map(|cell| cell.record.machine.words()).collect();
    machines.dedup();
    let mut warnings: Vec<String> = Vec::new();
    for cell in &comparison.cells {
        let title = cell.record.spec.title();
        let sentences = cell.record.result.warnings.iter();
        warnings.extend(sentences.map(|sentence| format!("{title}: {sentence}")));
    }
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.render_named_str(
        "report.html",
        include_str!("report.html"),
        context! {
            title,
            config,
            failures => comparison.failed.clone(),
            machines,
            warnings,
            heads,
            rows,
            notes => comparison.notes.clone(),
            caption => comparison.caption(),
            confidence => confidence(comparison),
            charts => charts(comparison),
            details => details(comparison),
            confusions => confusions(comparison),
            version => env!("CARGO_PKG_VERSION"),
            written => words::now(),
        },
    )
}

/// Intervals and tests, where there are any.
fn confidence(comparison: &Comparison) -> Option<minijinja::Value> {
    let confident = comparison.confident.as_ref()?;
    let (heads, rows) = confident.cells();
    Some(context! { heads, rows, caption => confident.caption() })
}

/// The charts that there are data for, each with its heading.
fn charts(comparison: &Comparison) -> Vec<minijinja::Value> {
    let by_method = |points: &dyn Fn(&Finished) -> Vec<(f64, f64)>| -> Vec<Series> {
        let rows = comparison.rows.iter().enumerate();
        let series = rows.flat_map(|(colour, row)| {
            row.cells.iter().map(move |&place| {
                let cell = &comparison.cells[place];
                let name = cell.record.spec.title();
                Series { name, colour, points: points(cell) }
            })
        });
        series.collect()
    };
    let loss = by_method(&|cell| cell.steps.iter().map(|step| (step.step as f64, step.loss)).collect());
    let mut charts = vec![("Training loss".to_string(), chart(Form::Lines, "optimizer step", "loss", &loss))];
    let chosen = comparison.cells.iter().find_map(|cell| cell.record.result.best_metric.as_ref());
    if let Some(best) = chosen {
        let curve = by_method(&|cell| {
            let epochs = cell.record.result.epochs.iter();
            let value = epochs.filter_map(|epoch| {
                let evaluated = epoch.evaluations.iter().find(|evaluated| evaluated.split == best.split)?;
                Some((epoch.epoch, evaluated.metrics.get(&best.name)?))
            });
            value.collect()
        });
        let name = words::metric(&best.name);
        let heading = format!("{name} on {} after each epoch", best.split);
        charts.push((heading, chart(Form::Lines, "epoch", &name, &curve)));
    }
    if let Some(column) = comparison.leading_metric() {
        let rows = comparison.rows.iter().enumerate();
        let points = rows.filter_map(|(colour, row)| {
            let point = (row.trained_parameters as f64, row.metrics[column]?.mean);
            Some(Series { name: row.method.clone(), colour, points: vec![point] })
        });
        let title = comparison.metrics[column].title();
        let heading = format!("{title} against trained parameters");
        let series: Vec<Series> = points.collect();
        charts.push((heading, chart(Form::Points, "trained parameters", &title, &series)));
    }
    let drawn = charts.into_iter().filter_map(|(heading, svg)| Some(context! { heading, svg => svg? }));
    drawn.collect()
}

/// The confusion matrices of each cell and split.
fn confusions(comparison: &Comparison) -> Vec<minijinja::Value> {
    let of_cell = |cell: &Finished| {
        let title = cell.record.spec.title();
        let splits = cell.record.result.confidence.iter();
        let matrices = splits.flat_map(|split| split.confusions.iter().map(|matrix| (&split.split, matrix)));
        let shown = |(split, matrix): (&String, &Confusion)| {
            let (heads, rows) = matrix.cells();
            context! { title => format!("{title} on {split}"), heads, rows }
        };
        matrices.map(shown).collect::<Vec<_>>()
    };
    comparison.cells.iter().flat_map(of_cell).collect()
}

/// A line for each cell of what the table leaves out.
fn details(comparison: &Comparison) -> Vec<minijinja::Value> {
    let cell = |cell: &Finished| {
        let (record, result) = (&cell.record, &cell.record.result);
        let speed = result.tokens as f64 / result.training_seconds.max(1e-9);
        context! {
            title => record.spec.title(),
            steps => words::count(result.steps),
            speed => words::count(speed as u64),
            best_epoch => result.best_epoch.map_or("–".to_string(), |epoch| format!("{epoch:.4}").trim_end_matches('0').trim_end_matches('.').to_string()),
            evaluation => words::duration(result.evaluation_seconds),
            plugins => words::duration(result.plugin_load_seconds + result.plugin_plan_seconds),
            added => words::count(result.counts.added as u64),
            sites => words::count(result.counts.sites as u64),
            finished => record.finished.clone(),
            identity => record.identity.get(..12),
        }
    };
    comparison.cells.iter().map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::comparison::tests::comparison;

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_shows() {
        let mut comparison = comparison().with_failed(vec!["gamma <seed 1> failed".into()]);
        comparison.cells[0].record.result.confidence = vec![crate::cell::Confidence {
            split: "dev".into(),
            confusions: vec![Confusion {
                field: "label".into(),
                classes: vec!["bad".into(), "good".into()],
                counts: vec![vec![7, 1], vec![2, 12]],
            }],
            ..Default::default()
        }];
        let page_of = |comparison: &Comparison| page(comparison, "a & b", "name = \"<x>\"").unwrap();
        let page = page_of(&comparison);
        for part in [
            "<h2>Confusions</h2>",
            "<tr><td>good</td><td>2</td><td>12</td></tr>",
            "a &amp; b",
            "&lt;x&gt;",
            "gamma &lt;seed 1&gt; failed",
            "1 min 22 s<small>± 0.71 s</small>",
            "node1, 2 cores",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        // Charts have the names that the table has.
        for cell in &mut comparison.cells {
            let best = cell.record.result.best_metric.as_mut();
            best.unwrap().name = "f1_macro".into();
        }
        let by_f1 = page_of(&comparison);
        for part in
            ["F1 macro on dev after each epoch", "F1 macro against trained parameters", "chosen by F1 macro"]
        {
            assert!(by_f1.contains(part), "{part} in\n{by_f1}");
        }
        assert!(!by_f1.contains("f1 macro"));
        assert_eq!(page.matches("<svg").count(), 3);
        assert_eq!(page.matches("</svg>").count(), 3);
        for outside in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("class=\"best\">0.7500"), "the best accuracy is marked");
    }
}
