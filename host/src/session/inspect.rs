//! The data of a config as the model would read them: counts, classes, lengths,
//! what stands twice, and examples as tokens. Nothing is trained and no weight is
//! read.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use host_engine::batch::Batch;
use host_engine::data::dataset::{Dataset, Noise};
use host_engine::data::find::{self, FoundSplit};
use host_engine::files::checkpoint::read_config;
use host_engine::models;
use host_engine::text::Tokenizer;
use host_ir::task::{Example, FieldType, FieldValue, Layout, SplitUse};

use crate::cell::CellSpec;
use crate::dataset::{ClassCounts, DataReport, Lengths, ShownExample, SpanCounts, SplitReport, TargetReport};
use crate::embedded;
use crate::session::data::{self, FirstWithout, Tokenising, parse};
use crate::session::duplicates::Seen;
use crate::session::{load, prepare};

/// Reads all splits of a spec, and shows the first so many examples of each.
///
/// # Errors
/// All that can be wrong with the task's plugin, the data and the tokenizer.
pub fn describe_data(spec: &CellSpec, shown: usize) -> Result<DataReport> {
    let task = load::task(&spec.task)?;
    let model = embedded::model(&spec.model.path)?;
    let config = models::read(&read_config(&model)?).with_context(|| model.display().to_string())?;
    let tokenizer = Tokenizer::open(&model)?;
    let folder = embedded::data(&spec.data.path)?;
    let found = find::find(&task.layout, &folder, &spec.data.overrides())?;
    let mut warnings = Vec::new();
    let counts = data::counts(&task, &found, spec.data.max_bad_records, &mut warnings)?;
    let plan = load::task_plan(&task, config.as_ref(), counts)?;
    let tokenising = Tokenising {
        task: &task,
        plan: &plan,
        tokenizer: &tokenizer,
        config: config.as_ref(),
        room: data::room(&plan, config.as_ref(), 0)?,
        max_bad_records: spec.data.max_bad_records,
        too_long: spec.data.too_long,
    };
    let mut seen = Seen::new(&tokenising.reading()?);
    let splits: Vec<SplitReport> = found
        .iter()
        .map(|found| read(&tokenising, found, shown, &mut seen, spec.seed))
        .collect::<Result<_>>()?;
    warnings.extend(seen.warnings()?);
    Ok(DataReport { splits, warnings })
}

fn read(
    tokenising: &Tokenising<'_>,
    found: &FoundSplit,
    shown: usize,
    seen: &mut Seen,
    seed: u64,
) -> Result<SplitReport> {
    let (reading, layout) = (tokenising.reading()?, &*tokenising.task.layout);
    let mut dataset = Dataset::new(layout);
    dataset.targets = data::targets(reading.sequence, layout, tokenising.config)?;
    let (mut classes, mut spans) = (Classes::new(layout), span_fields(layout));
    let (mut first, mut without) = (Vec::new(), FirstWithout::default());
    // What is wrong was told when the records were counted.
    parse(tokenising.task, found, tokenising.max_bad_records, |examples| {
        dataset.add(&examples, &reading)?;
        for example in &examples {
            classes.count(example);
            spans
                .iter_mut()
                .for_each(|(place, counts)| count_spans(counts, grouped(layout, example, *place)));
        }
        seen.add(found, &examples)?;
        without.look(layout, &examples);
        let wanted = shown - first.len();
        first.extend(examples.into_iter().take(wanted));
        Ok(())
    })?;
    let (mut lengths, mut of_targets): (BTreeMap<usize, u64>, BTreeMap<usize, u64>) = Default::default();
    for example in 0..dataset.len() {
        for piece in dataset.pieces(example)? {
            *lengths.entry(piece.ids.len()).or_default() += 1;
        }
        if let Some(targets) = &dataset.targets {
            *of_targets.entry(targets.length(example)?).or_default() += 1;
        }
    }
    // An example without a target has one of no token.
    let missing = of_targets.remove(&0).unwrap_or(0);
    let targets = dataset.targets.as_ref().map(|targets| TargetReport {
        lengths: summarise(&of_targets),
        cut: targets.cut as u64,
        missing,
    });
    // As the first epoch of a training masks it, and every evaluation.
    let seed = if found.usage == SplitUse::Train { seed } else { 0 };
    let noise = prepare::noise(tokenising.plan, tokenising.config, tokenising.tokenizer, seed)?;
    let examples: Vec<ShownExample> = first
        .iter()
        .enumerate()
        .map(|(place, example)| as_read(tokenising, &dataset, noise.as_ref(), place, example))
        .collect::<Result<_>>()?;
    Ok(SplitReport {
        name: found.name.clone(),
        files: found.files.iter().map(|file| file.display().to_string()).collect(),
        examples: dataset.len() as u64,
        classes: classes.0.into_iter().map(|(_, counts)| counts).collect(),
        spans: spans.into_iter().map(|(_, counts)| counts).collect(),
        sequences: dataset.sequences() as u64,
        lengths: summarise(&lengths),
        cut: dataset.cut as u64,
        room: tokenising.room as u64,
        targets,
        repeated: seen.repeated(&found.name)?,
        refused: tokenising.check(found, &dataset, &without).err().map(|error| error.to_string()),
        shown: examples,
    })
}

/// Examples of each class, by the place of its field.
struct Classes(Vec<(usize, ClassCounts)>);

impl Classes {
    fn new(layout: &Layout) -> Classes {
        let labels = layout.fields.iter().enumerate().filter_map(|(place, field)| match &field.kind {
            FieldType::Label(names) => {
                let classes = names.iter().map(|name| (name.clone(), 0)).collect();
                Some((place, ClassCounts { field: field.name.clone(), classes, missing: 0 }))
            }
            _ => None,
        });
        Classes(labels.collect())
    }

    fn count(&mut self, example: &Example) {
        for (place, counts) in &mut self.0 {
            match example.label(*place) {
                Some(label) => counts.classes[label as usize].1 += 1,
                None => counts.missing += 1,
            }
        }
    }
}

/// Gold fields of spans, by place, with nothing counted yet.
fn span_fields(layout: &Layout) -> Vec<(usize, SpanCounts)> {
    let fields = layout.fields.iter().enumerate();
    let spans = fields.filter(|(_, field)| field.gold && matches!(field.kind, FieldType::Spans(_)));
    let none = |field: &str| SpanCounts { field: field.into(), spans: 0, groups: 0, missing: 0 };
    spans.map(|(place, field)| (place, none(&field.name))).collect()
}

fn count_spans(counts: &mut SpanCounts, groups: Option<Vec<Vec<String>>>) {
    match groups {
        Some(groups) => {
            counts.spans += groups.iter().map(|group| group.len() as u64).sum::<u64>();
            counts.groups += groups.len() as u64;
        }
        None => counts.missing += 1,
    }
}

/// The words of an example's spans, those of one number together, by their first words.
fn grouped(layout: &Layout, example: &Example, place: usize) -> Option<Vec<Vec<String>>> {
    let (FieldType::Spans(of), Some(FieldValue::Spans(spans))) =
        (&layout.fields[place].kind, example.values.get(place)?)
    else {
        return None;
    };
    let Some(FieldValue::Words(words)) = layout.field(of).and_then(|of| example.values.get(of)?.as_ref())
    else {
        return None;
    };
    let mut spans = spans.clone();
    spans.sort_unstable();
    let mut groups: Vec<(u32, Vec<String>)> = Vec::new();
    for [first, last, number] in spans {
        let text = words.get(first as usize..=last as usize).unwrap_or_default().join(" ");
        match groups.iter_mut().find(|(known, _)| *known == number) {
            Some((_, group)) => group.push(text),
            None => groups.push((number, vec![text])),
        }
    }
    Some(groups.into_iter().map(|(_, group)| group).collect())
}

/// Shortest, longest, mean and quantiles of lengths with how often each is.
fn summarise(lengths: &BTreeMap<usize, u64>) -> Lengths {
    let count: u64 = lengths.values().sum();
    let total: u64 = lengths.iter().map(|(&length, &times)| length as u64 * times).sum();
    let quantile = |share: f64| {
        let rank = (share * count as f64).ceil().max(1.0) as u64;
        let mut before = 0;
        let reached = lengths.iter().find(|&(_, &times)| {
            before += times;
            before >= rank
        });
        reached.map_or(0, |(&length, _)| length as u64)
    };
    Lengths {
        shortest: lengths.keys().next().map_or(0, |&length| length as u64),
        median: quantile(0.5),
        mean: total as f64 / count.max(1) as f64,
        most: quantile(0.95),
        longest: lengths.keys().next_back().map_or(0, |&length| length as u64),
    }
}

/// An example as tokens, by sequence and segment.
fn as_read(
    tokenising: &Tokenising<'_>,
    dataset: &Dataset,
    noise: Option<&Noise>,
    place: usize,
    example: &Example,
) -> Result<ShownExample> {
    let layout = &*tokenising.task.layout;
    let named = |id: u32| tokenising.tokenizer.token(id).unwrap_or_else(|| format!("[{id}]"));
    let mut sequences = Vec::new();
    let mut batch = Batch::default();
    dataset.pack(&[(place, 0)], 0, noise, &mut batch)?;
    for range in batch.starts.windows(2) {
        let rows = range[0] as usize..range[1] as usize;
        let mut segments: Vec<(u32, Vec<String>)> = Vec::new();
        for (&id, &segment) in batch.ids[rows.clone()].iter().zip(&batch.token_types[rows]) {
            let token = named(id);
            match segments.last_mut() {
                Some((last, tokens)) if *last == segment => tokens.push(token),
                _ => segments.push((segment, vec![token])),
            }
        }
        sequences.push(segments);
    }
    let labels = layout.fields.iter().enumerate().filter_map(|(place, field)| match &field.kind {
        FieldType::Label(names) => {
            let name = example.label(place).map(|label| names[label as usize].clone());
            Some((field.name.clone(), name))
        }
        _ => None,
    });
    let target = match &dataset.targets {
        Some(targets) => targets.ids(place)?.into_iter().map(named).collect(),
        None => Vec::new(),
    };
    let spans = span_fields(layout).into_iter();
    let spans =
        spans.filter_map(|(place, counts)| Some((counts.field, grouped(layout, example, place)?))).collect();
    let (labels, masked) =
        (labels.collect(), batch.masked_tokens.iter().map(|&id| named(id as u32)).collect());
    Ok(ShownExample { origin: example.origin.to_string(), labels, sequences, masked, spans, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_that_stand_there() {
        // 3, 3, 5, 5, 5, 5, 5, 5, 5, 40.
        let lengths = summarise(&BTreeMap::from([(3, 2), (5, 7), (40, 1)]));
        assert_eq!(lengths, Lengths { shortest: 3, median: 5, mean: 8.1, most: 40, longest: 40 });
        assert_eq!(summarise(&BTreeMap::from([(7, 1)])).median, 7);
        assert_eq!(summarise(&BTreeMap::new()), Lengths::default());
    }
}
