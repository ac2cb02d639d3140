//! The comparison as a table for the terminal, as Markdown, CSV and JSON.

use std::path::Path;

use anyhow::Result;
use comfy_table::presets::{ASCII_MARKDOWN, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use serde_json::json;

use super::comparison::{Comparison, Row, place};
use super::record::{write_json, write_whole};
use super::words;

/// Lines above and below, and under the heads.
pub const PLAIN: TableStyle = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());

/// The columns before the scores.
const COSTS: [&str; 4] = ["method", "training time", "peak memory", "trained parameters"];

/// Heads and rows of the whole table; the first four columns are [`COSTS`].
pub fn cells(comparison: &Comparison) -> (Vec<String>, Vec<Vec<String>>) {
    let mut heads: Vec<String> = COSTS.map(String::from).to_vec();
    heads.extend(comparison.metrics.iter().map(|metric| metric.title()));
    (heads, comparison.rows.iter().map(row).collect())
}

fn row(row: &Row) -> Vec<String> {
    let absent = || "–".to_string();
    let mut cells = vec![
        row.method.clone(),
        row.training_seconds.map_or_else(absent, |seconds| seconds.words(words::duration)),
        row.peak_memory_bytes.map_or_else(absent, |bytes| bytes.words(words::bytes)),
        format!(
            "{} ({})",
            words::count(row.trained_parameters),
            words::share(row.trained_parameters, row.total_parameters)
        ),
    ];
    let score = |value: f64| format!("{value:.4}");
    cells.extend(row.metrics.iter().map(|metric| metric.map_or_else(absent, |metric| metric.words(score))));
    cells
}

/// The table for a terminal of so many columns, or for a file without a width.
/// Where it is too wide, costs and scores stand in tables of their own, each
/// with as many columns as fit.
pub fn for_terminal(comparison: &Comparison, width: Option<usize>) -> String {
    let (heads, rows) = cells(comparison);
    let heads: Vec<String> = heads.iter().map(|head| head.replace(' ', "\n")).collect();
    let of_columns = |columns: &[usize]| {
        let pick = |cells: &[String]| columns.iter().map(|&column| cells[column].clone()).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = rows.iter().map(|row| pick(row)).collect();
        draw(PLAIN, &pick(&heads), &rows)
    };
    let fits = |columns: &[usize]| {
        let widest = of_columns(columns).lines().map(|line| line.chars().count()).max();
        width.is_none_or(|width| widest.unwrap_or(0) <= width)
    };
    let all: Vec<usize> = (0..heads.len()).collect();
    let mut tables: Vec<Vec<usize>> = Vec::new();
    if fits(&all) {
        tables.push(all);
    } else {
        tables.push((0..COSTS.len()).collect());
        let mut scores = vec![0];
        for column in COSTS.len()..heads.len() {
            scores.push(column);
            if scores.len() > 2 && !fits(&scores) {
                scores.pop();
                tables.push(std::mem::replace(&mut scores, vec![0, column]));
            }
        }
        tables.push(scores);
        tables.retain(|columns| columns.len() > 1);
    }
    let tables: Vec<String> = tables.iter().map(|columns| of_columns(columns)).collect();
    format!("{}{}\n{}", tables.join("\n"), footer(comparison), intervals(comparison, PLAIN, ""))
}

/// Intervals and tests as a table of their own, with `gap` before its caption.
fn intervals(comparison: &Comparison, style: TableStyle, gap: &str) -> String {
    let Some(confident) = &comparison.confident else { return String::new() };
    let (heads, rows) = confident.cells();
    format!("\n{}{gap}{}\n", draw(style, &heads, &rows), confident.caption())
}

/// The lines under the table.
fn footer(comparison: &Comparison) -> String {
    let mut lines = vec![comparison.caption()];
    lines.extend(comparison.notes.iter().map(|note| format!("note: {note}")));
    // Causes stand on lines of their own elsewhere.
    let line = |sentence: &String| sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.extend(comparison.failed.iter().map(|sentence| format!("failed: {}", line(sentence))));
    lines.join("\n")
}

/// A table with its heads, numbers to the right.
pub fn draw(style: TableStyle, heads: &[String], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    // Plain text: neither colours nor the terminal's width change the table.
    table.load_style(style).force_no_tty().set_header(heads).add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    lines.join("\n") + "\n"
}

/// The table as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let (heads, rows) = cells(comparison);
    let escaped = |cells: &[String]| cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| escaped(row)).collect();
    format!(
        "{}\n{}\n{}",
        draw(ASCII_MARKDOWN, &escaped(&heads), &rows),
        footer(comparison),
        intervals(comparison, ASCII_MARKDOWN, "\n")
    )
}

/// A line for each cell, in plain numbers, with the metrics of all splits.
pub fn csv(comparison: &Comparison) -> String {
    let mut names: Vec<(String, String)> = Vec::new();
    let splits = || comparison.cells.iter().flat_map(|cell| &cell.record.result.metrics);
    for evaluated in splits() {
        for (name, _) in &evaluated.metrics.0 {
            let name = (evaluated.split.clone(), name.clone());
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    // As in the table, split by split.
    let splits: Vec<String> = names.iter().map(|(split, _)| split.clone()).collect();
    let split = |name: &String| splits.iter().position(|known| known == name);
    names.sort_by_key(|(of, name)| (split(of), place(name)));
    let mut lines = vec![
        [
            "method",
            "seed",
            "training_seconds",
            "evaluation_seconds",
            "peak_memory_bytes",
            "trained_parameters",
            "added_parameters",
            "total_parameters",
            "steps",
            "threads",
            "machine",
        ]
        .map(String::from)
        .to_vec(),
    ];
    lines[0].extend(names.iter().map(|(split, name)| format!("{split}.{name}")));
    for row in &comparison.rows {
        for &cell in &row.cells {
            let record = &comparison.cells[cell].record;
            let result = &record.result;
            let mut line = vec![
                row.method.clone(),
                record.spec.seed.to_string(),
                result.training_seconds.to_string(),
                result.evaluation_seconds.to_string(),
                record.peak_memory_bytes.to_string(),
                result.counts.trained.to_string(),
                result.counts.added.to_string(),
                result.counts.total.to_string(),
                result.steps.to_string(),
                record.spec.threads.to_string(),
                record.machine.host.clone(),
            ];
            line.extend(names.iter().map(|(split, name)| {
                let evaluated = result.metrics.iter().find(|evaluated| evaluated.split == *split);
                let value = evaluated.and_then(|evaluated| evaluated.metrics.get(name));
                value.map_or(String::new(), |value| value.to_string())
            }));
            lines.push(line);
        }
    }
    let field = |text: &String| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.clone(),
    };
    let line = |cells: &Vec<String>| cells.iter().map(field).collect::<Vec<_>>().join(",") + "\n";
    lines.iter().map(line).collect()
}

/// Writes the comparison's files into a directory.
pub fn write(comparison: &Comparison, directory: &Path) -> Result<()> {
    write_whole(&directory.join("comparison.md"), &markdown(comparison))?;
    write_whole(&directory.join("comparison.csv"), &csv(comparison))?;
    let cells: Vec<_> = comparison.cells.iter().map(|cell| &cell.record).collect();
    let whole = json!({
        "split": comparison.split,
        "metrics": comparison.metrics,
        "rows": comparison.rows,
        "notes": comparison.notes,
        "failed": comparison.failed,
        "confidence": comparison.confident,
        "cells": cells,
    });
    write_json(&directory.join("comparison.json"), &whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::comparison::tests::comparison;

    #[test]
    fn the_terminal_has_the_papers_table() {
        let text = for_terminal(&comparison(), None);
        let table: Vec<&str> = text.lines().skip(1).take(5).collect();
        let expected = [
            " method              training            peak         trained          accuracy                F1              loss",
            "                         time          memory      parameters                               macro",
        ];
        assert_eq!(table[..2], expected, "{text}");
        for cell in [
            " 1 min 22 s ± 0.71 s ",
            " 512 MiB ± 0 B ",
            " 1,001 (1.00%) ",
            " 0.3750 ± 0.1768 ",
            " 0.7500 ",
            "\nscores on test; checkpoints chosen by accuracy on dev; mean ± standard deviation over up to 2 seeds\n",
        ] {
            assert!(text.contains(cell), "{cell} in\n{text}");
        }
    }

    #[test]
    fn a_narrow_terminal_has_several_tables() {
        for (width, tables) in [(200, 1), (80, 2), (40, 4)] {
            let text = for_terminal(&comparison(), Some(width));
            assert_eq!(text.matches("\n alpha").count(), tables, "{width}\n{text}");
            let scores = text.lines().filter(|line| line.contains("0.3750") || line.contains("1.5000"));
            let widest = scores.map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{width}\n{text}");
        }
    }

    #[test]
    fn csv_has_a_line_for_each_cell_and_every_split() {
        let mut comparison = comparison();
        comparison.rows[1].method = "be,\"ta\"".into();
        let text = csv(&comparison);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].ends_with(
            "threads,machine,dev.accuracy,dev.f1_macro,dev.loss,test.accuracy,test.f1_macro,test.loss"
        ));
        assert_eq!(
            lines[2],
            "alpha,2,82,0,536870912,1002,900,100000,10,2,node1,0.125,0.25,1.5,0.25,0.25,1.5"
        );
        assert!(lines[3].starts_with("\"be,\"\"ta\"\"\",1,81,"));
    }

    #[test]
    fn files_are_written_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let failed = vec!["gamma (seed 1): no result\n  because: the disk is full".to_string()];
        write(&comparison().with_failed(failed.clone()), folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&read("comparison.json")).unwrap();
        assert_eq!(json["rows"][0]["metrics"][0]["mean"], 0.375);
        assert_eq!(json["cells"].as_array().unwrap().len(), 3);
        assert_eq!(json["failed"], serde_json::json!(failed));
        let markdown = read("comparison.md");
        assert!(markdown.starts_with("| method |"), "{markdown}");
        assert!(markdown.lines().nth(1).unwrap().starts_with("|---"), "{markdown}");
        assert!(
            markdown.contains("\nfailed: gamma (seed 1): no result because: the disk is full\n"),
            "{markdown}"
        );
        assert_eq!(read("comparison.csv"), csv(&comparison()));
    }
}
