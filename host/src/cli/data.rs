//! `host data`: the data as the model would read them.

use anyhow::{Result, bail};

use super::arguments::DataArguments;
use super::{sources, terminal};
use crate::dataset::{ClassCounts, Lengths, ShownExample, SpanCounts, SplitReport};
use crate::runs::words;
use crate::session;

pub fn data(arguments: &DataArguments) -> Result<()> {
    let config = sources::ready(&arguments.config)?;
    let cells = config.cells();
    // Data and task are the run's: the first cell stands for all.
    let Some(spec) = cells.first() else { return Ok(()) };
    let report = session::describe_data(spec, arguments.examples)?;
    let mut text = String::new();
    for (place, split) in report.splits.iter().enumerate() {
        text.push_str(if place > 0 { "\n" } else { "" });
        text.push_str(&described(split));
    }
    terminal::print(&text)?;
    report.warnings.iter().for_each(|sentence| terminal::warning(sentence));
    // All is shown first, so that it can be seen what a run would refuse.
    match report.splits.into_iter().find_map(|split| split.refused) {
        Some(sentence) => bail!("a run would end here: {sentence}"),
        None => Ok(()),
    }
}

fn described(split: &SplitReport) -> String {
    let mut lines = vec![format!(
        "{}: {} from {}",
        split.name,
        words::plural(split.examples, "example"),
        split.files.join(", ")
    )];
    lines.extend(split.classes.iter().map(balance));
    lines.extend(split.spans.iter().map(spans));
    let each = split.sequences as f64 / split.examples.max(1) as f64;
    lines.push(match split.sequences == split.examples {
        true => "  one sequence an example".to_string(),
        false => format!("  {}, {each:.2} an example", words::plural(split.sequences, "sequence")),
    });
    lines.push(lengths("sequence", &split.lengths));
    if split.cut > 0 {
        lines.push(format!("  {} cut to {} tokens", words::plural(split.cut, "sequence"), split.room));
    }
    if let Some(targets) = &split.targets {
        if targets.missing > 0 {
            lines.push(format!("  {} without a target", words::plural(targets.missing, "example")));
        }
        if targets.missing < split.examples {
            lines.push(lengths("target", &targets.lengths));
        }
        if targets.cut > 0 {
            let (cut, longest) = (words::plural(targets.cut, "target"), targets.lengths.longest);
            lines.push(format!("  {cut} cut to {longest} tokens"));
        }
    }
    if split.repeated > 0 {
        lines.push(format!(
            "  {} with a text that stood in the split before",
            words::plural(split.repeated, "example")
        ));
    }
    lines.extend(split.shown.iter().flat_map(as_read));
    lines.join("\n") + "\n"
}

fn lengths(what: &str, lengths: &Lengths) -> String {
    format!(
        "  tokens a {what}: {} to {}, mean {:.1}, median {}, 95% have at most {}",
        lengths.shortest, lengths.longest, lengths.mean, lengths.median, lengths.most
    )
}

/// How many examples each class has, and their share of the labelled ones.
fn balance(counts: &ClassCounts) -> String {
    let total: u64 = counts.classes.iter().map(|(_, count)| count).sum();
    let share = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
    let mut parts: Vec<String> = Vec::new();
    if total > 0 {
        parts.extend(
            counts.classes.iter().map(|(name, count)| format!("{name} {count} ({:.1}%)", share(*count))),
        );
    }
    if counts.missing > 0 {
        parts.push(format!("without {}", counts.missing));
    }
    format!("  {}: {}", counts.field, parts.join(", "))
}

/// How many spans a split has, and how many groups of one number.
fn spans(counts: &SpanCounts) -> String {
    let groups = words::plural(counts.groups, "group");
    let missing = match counts.missing {
        0 => String::new(),
        missing => format!(", without {missing}"),
    };
    format!("  {}: {} in {groups}{missing}", counts.field, words::plural(counts.spans, "span"))
}

/// An example's tokens, a line a sequence, those that stood where they are masked, the
/// words of its spans, a line a group, and the target after an arrow; a bar and the
/// segment's number stand where another segment begins.
fn as_read(example: &ShownExample) -> Vec<String> {
    let labels = example.labels.iter().map(|(field, label)| {
        let label = label.as_deref().unwrap_or("none");
        format!(", {field} {label}")
    });
    let mut lines = vec![format!("  {}{}", example.origin, labels.collect::<String>())];
    for segments in &example.sequences {
        let segment = |(number, tokens): &(u32, Vec<String>)| format!("|{number} {}", tokens.join(" "));
        lines.push(format!("    {}", segments.iter().map(segment).collect::<Vec<_>>().join(" ")));
    }
    if !example.masked.is_empty() {
        lines.push(format!("    masked: {}", example.masked.join(" ")));
    }
    for (field, groups) in &example.spans {
        lines.extend(groups.iter().map(|group| format!("    {field}: {}", group.join(" | "))));
    }
    if !example.target.is_empty() {
        lines.push(format!("    -> {}", example.target.join(" ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::TargetReport;

    #[test]
    fn a_split_is_a_few_lines() {
        let tokens = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        let split = SplitReport {
            name: "dev".into(),
            files: vec!["data/dev.jsonl".into()],
            examples: 4,
            classes: vec![ClassCounts {
                field: "label".into(),
                classes: vec![("no".into(), 1), ("yes".into(), 2)],
                missing: 1,
            }],
            spans: vec![SpanCounts { field: "names".into(), spans: 5, groups: 1, missing: 1 }],
            sequences: 8,
            lengths: Lengths { shortest: 3, median: 5, mean: 6.25, most: 9, longest: 10 },
            cut: 1,
            room: 10,
            targets: Some(TargetReport {
                lengths: Lengths { shortest: 2, median: 3, mean: 3.0, most: 4, longest: 4 },
                cut: 2,
                missing: 1,
            }),
            repeated: 1,
            refused: None,
            shown: vec![ShownExample {
                origin: "data/dev.jsonl:1".into(),
                labels: vec![("label".into(), Some("yes".into()))],
                sequences: vec![vec![(0, tokens("[CLS] is it [SEP]")), (1, tokens("it is [SEP]"))]],
                masked: tokens("it"),
                spans: vec![("names".into(), vec![vec!["New York".into(), "it".into()], vec!["Ann".into()]])],
                target: tokens("it is </s>"),
            }],
        };
        let wanted = "\
dev: 4 examples from data/dev.jsonl
  label: no 1 (33.3%), yes 2 (66.7%), without 1
  names: 5 spans in 1 group, without 1
  8 sequences, 2.00 an example
  tokens a sequence: 3 to 10, mean 6.2, median 5, 95% have at most 9
  1 sequence cut to 10 tokens
  1 example without a target
  tokens a target: 2 to 4, mean 3.0, median 3, 95% have at most 4
  2 targets cut to 4 tokens
  1 example with a text that stood in the split before
  data/dev.jsonl:1, label yes
    |0 [CLS] is it [SEP] |1 it is [SEP]
    masked: it
    names: New York | it
    names: Ann
    -> it is </s>
";
        assert_eq!(described(&split), wanted);
    }
}
