//! The splits of a cell: files through the task's `parse` to tokens.
//!
//! Files are read twice, first to check and count their examples, which the
//! task's plan may depend on, then to tokenise them; so that examples that only
//! train are never in memory together.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use host_engine::data::dataset::{Dataset, Reading};
use host_engine::data::find::FoundSplit;
use host_engine::data::records;
use host_engine::data::targets::Targets;
use host_engine::models::Architecture;
use host_engine::text::Tokenizer;
use host_ir::task::{Example, Layout, Sequence, SplitUse, TaskPlan};
use host_plugin::Task;

/// A split that is ready for the model.
pub struct Split {
    pub name: String,
    pub usage: SplitUse,
    /// None of the split that trains.
    pub examples: Vec<Example>,
    pub dataset: Dataset,
}

/// Hands a split's examples to `take`, a part of a file at a time. Answers the
/// records that the task left out, by reason.
pub fn parse(
    task: &Task,
    split: &FoundSplit,
    mut take: impl FnMut(Vec<Example>) -> Result<()>,
) -> Result<BTreeMap<String, u64>> {
    let mut skipped: BTreeMap<String, u64> = BTreeMap::new();
    for file in &split.files {
        records::read(file, split.container, |chunk| -> Result<()> {
            let parsed = task.parse(&split.name, split.container, chunk)?;
            if let Some(first) = parsed.rejected.first() {
                let rest = match parsed.rejected.len() - 1 {
                    0 => String::new(),
                    more => format!(" ({more} more like this in the same part of the file)"),
                };
                bail!("{first}{rest}");
            }
            for (reason, count) in parsed.skipped {
                *skipped.entry(reason).or_default() += count;
            }
            take(parsed.examples)
        })?;
    }
    Ok(skipped)
}

/// Checks a split and counts its examples.
pub fn count(task: &Task, split: &FoundSplit, warnings: &mut Vec<String>) -> Result<u64> {
    let mut count = 0;
    let skipped = parse(task, split, |examples| {
        count += examples.len() as u64;
        Ok(())
    })?;
    for (reason, count) in skipped {
        warnings.push(format!("{count} records of {} were left out: {reason}", split.name));
    }
    match count {
        0 => bail!("{}: the split {} has no example", split.files[0].display(), split.name),
        count => Ok(count),
    }
}

/// Tokens that a sequence has at most, virtual ones not among them.
pub fn room(plan: &TaskPlan, config: &dyn Architecture, virtual_tokens: usize) -> Result<usize> {
    let sequence = plan.sequences.first().ok_or_else(|| anyhow!("the task declares no sequence"))?;
    let positions = config.positions().unwrap_or(usize::MAX);
    let wanted = sequence.at_most.map_or(positions, |most| most as usize);
    let room = wanted.min(positions.saturating_sub(virtual_tokens));
    if room < 3 {
        bail!("{virtual_tokens} virtual tokens leave no room for text in the model's {positions} positions");
    }
    Ok(room)
}

/// Tokenises a split to sequences of at most `room` tokens.
pub fn tokenise(
    task: &Task,
    plan: &TaskPlan,
    (tokenizer, config): (&Tokenizer, &dyn Architecture),
    room: usize,
    found: &FoundSplit,
    warnings: &mut Vec<String>,
) -> Result<Split> {
    let sequence = plan.sequences.first().ok_or_else(|| anyhow!("the task declares no sequence"))?;
    let layout = &task.layout;
    let reading = Reading { sequence, layout, tokenizer, at_most: room, segments: config.segments() };
    let (mut dataset, mut kept) = (Dataset::new(layout), Vec::new());
    dataset.targets = targets(sequence, layout, config)?;
    dataset.first_position = config.first_position() as u32;
    parse(task, found, |examples| {
        dataset.add(&examples, &reading)?;
        if found.usage != SplitUse::Train {
            kept.extend(examples);
        }
        Ok(())
    })?;
    if dataset.cut > 0 {
        warnings.push(format!(
            "{} of {} sequences of {} were cut to {room} tokens",
            dataset.cut,
            dataset.len(),
            found.name
        ));
    }
    if let Some(targets) = dataset.targets.as_ref().filter(|targets| targets.cut > 0) {
        warnings.push(format!(
            "{} of {} targets of {} were cut to {} tokens",
            targets.cut,
            dataset.len(),
            found.name,
            targets.longest()
        ));
    }
    if found.usage == SplitUse::Train {
        check_gold(layout, &dataset)?;
    }
    Ok(Split { name: found.name.clone(), usage: found.usage, examples: kept, dataset })
}

/// The targets of a sequence that a decoder should turn into something else.
fn targets(sequence: &Sequence, layout: &Layout, config: &dyn Architecture) -> Result<Option<Targets>> {
    let Some(target) = &sequence.target else { return Ok(None) };
    let decoder = config.decoder().ok_or_else(|| {
        anyhow!(
            "a model of the kind {} has no decoder, which this task needs; T5 and BART have one",
            config.name()
        )
    })?;
    let field = layout.field(&target.text).ok_or_else(|| anyhow!("there is no field {}", target.text))?;
    let most = decoder.positions.unwrap_or(usize::MAX);
    let at_most = target.at_most.map_or(most, |tokens| most.min(tokens as usize));
    Ok(Some(Targets::new(field, at_most, decoder)))
}

/// What trains needs its labels and its targets.
fn check_gold(layout: &Layout, train: &Dataset) -> Result<()> {
    if let Some(targets) = train.targets.as_ref().filter(|targets| targets.missing > 0) {
        bail!(
            "{} examples of the training split have no target; they cannot be learned from",
            targets.missing
        );
    }
    for field in layout.fields.iter().filter(|field| field.gold) {
        let missing = train.unlabelled(&field.name);
        if missing > 0 {
            bail!(
                "{missing} examples of the training split have no {}; they cannot be learned from",
                field.name
            );
        }
    }
    Ok(())
}
