//! The splits of a cell: files through the task's `parse` to tokens.
//!
//! Files are read twice, first to check and count their examples, which the
//! task's plan may depend on, then to tokenise them; so that the examples of a split
//! are never in memory together.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use host_engine::data::dataset::Dataset;
use host_engine::data::find::FoundSplit;
use host_engine::data::kept::Kept;
use host_engine::data::reading::Reading;
use host_engine::data::records;
use host_engine::data::targets::Targets;
use host_engine::models::Architecture;
use host_engine::text::Tokenizer;
use host_ir::task::{Example, HeadKind, Layout, Sequence, SplitUse, TaskPlan};
use host_plugin::Task;

use crate::cell::TooLong;
use crate::runs::words;
use crate::session::duplicates::{Seen, is_blank, read_fields};

/// A split that is ready for the model.
pub struct Split {
    pub name: String,
    pub usage: SplitUse,
    /// None of the split that trains.
    pub examples: Kept<Example>,
    pub dataset: Dataset,
}

/// Records of a split that made no example.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// By the task's reason.
    skipped: BTreeMap<String, u64>,
    /// Wrong ones, which the config allows to a number.
    bad: u64,
    /// The sentence about the first wrong one.
    first: Option<String>,
}

impl LeftOut {
    /// What the user should read about a split.
    pub fn warnings(&self, split: &str) -> Vec<String> {
        let skipped = self.skipped.iter();
        let mut warnings: Vec<String> = skipped
            .map(|(reason, count)| {
                format!("left out of {split}: {}, because {reason}", words::plural(*count, "record"))
            })
            .collect();
        if let Some(first) = &self.first {
            let bad = words::plural(self.bad, "wrong record");
            warnings.push(format!("left out of {split}: {bad}, the first: {first}"));
        }
        warnings
    }
}

/// Hands a split's examples to `take`, a part of a file at a time. So many records
/// may be wrong.
pub fn parse(
    task: &Task,
    split: &FoundSplit,
    max_bad_records: u64,
    mut take: impl FnMut(Vec<Example>) -> Result<()>,
) -> Result<LeftOut> {
    let mut left_out = LeftOut::default();
    for file in &split.files {
        records::read(file, split.container, |chunk| -> Result<()> {
            let mut parsed = task.parse(&split.name, split.container, chunk.records)?;
            let mut wrong = chunk.unreadable;
            wrong.append(&mut parsed.rejected);
            left_out.bad += wrong.len() as u64;
            let first = left_out.first.take().or_else(|| wrong.first().cloned());
            if let (Some(first), true) = (&first, left_out.bad > max_bad_records) {
                bail!("{}", too_many(first, left_out.bad, max_bad_records));
            }
            left_out.first = first;
            for (reason, count) in parsed.skipped {
                *left_out.skipped.entry(reason).or_default() += count;
            }
            take(parsed.examples)
        })?;
    }
    Ok(left_out)
}

fn too_many(first: &str, bad: u64, allowed: u64) -> String {
    match (bad, allowed) {
        (1, _) => first.to_string(),
        (bad, 0) => format!("{first} ({} more like this in the same part of the file)", bad - 1),
        (bad, allowed) => {
            format!("{first} ({bad} wrong records so far; data.max_bad_records allows {allowed})")
        }
    }
}

/// Checks splits and counts the examples of each, by its name.
pub fn counts(
    task: &Task,
    found: &[FoundSplit],
    max_bad_records: u64,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, u64>> {
    let count = |split: &FoundSplit| Ok((split.name.clone(), count(task, split, max_bad_records, warnings)?));
    found.iter().map(count).collect()
}

fn count(task: &Task, split: &FoundSplit, max_bad_records: u64, warnings: &mut Vec<String>) -> Result<u64> {
    let mut count = 0;
    let left_out = parse(task, split, max_bad_records, |examples| {
        count += examples.len() as u64;
        Ok(())
    })?;
    warnings.extend(left_out.warnings(&split.name));
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

/// What splits are tokenised with.
pub struct Tokenising<'a> {
    pub task: &'a Task,
    pub plan: &'a TaskPlan,
    pub tokenizer: &'a Tokenizer,
    pub config: &'a dyn Architecture,
    /// The most tokens of a sequence, virtual ones not among them.
    pub room: usize,
    pub max_bad_records: u64,
    pub too_long: TooLong,
}

impl Tokenising<'_> {
    /// How an example becomes sequences.
    pub fn reading(&self) -> Result<Reading<'_>> {
        let sequence = self.plan.sequences.first().ok_or_else(|| anyhow!("the task declares no sequence"))?;
        Ok(Reading {
            sequence,
            layout: &self.task.layout,
            tokenizer: self.tokenizer,
            at_most: self.room,
            segments: self.config.segments(),
        })
    }

    /// Tokenises the splits, and holds those that are evaluated against what trains.
    pub fn all(&self, found: &[FoundSplit], warnings: &mut Vec<String>) -> Result<Vec<Split>> {
        let mut seen = Seen::new(&self.reading()?);
        let splits: Vec<Split> =
            found.iter().map(|found| self.split(found, &mut seen, warnings)).collect::<Result<_>>()?;
        warnings.extend(seen.warnings()?);
        Ok(splits)
    }

    /// A warning of what was cut, where that is allowed; `cut` are those of so many.
    ///
    /// # Errors
    /// The config wants no sequence cut.
    fn shortened(
        &self,
        split: &str,
        what: &str,
        (cut, all): (usize, usize),
        room: usize,
    ) -> Result<Option<String>> {
        match self.too_long {
            _ if cut == 0 => Ok(None),
            TooLong::Cut => Ok(Some(format!("{cut} of {all} {what} of {split} were cut to {room} tokens"))),
            TooLong::Error => bail!(
                "{cut} of {all} {what} of {split} have more than {room} tokens, and data.too_long is \"error\"; \
                 \"cut\" would cut them"
            ),
        }
    }

    /// What should be known of a split as it was read: what was cut, what has no gold.
    ///
    /// # Errors
    /// What cannot be trained on, or what the config does not want.
    pub fn check(&self, found: &FoundSplit, dataset: &Dataset, first: &FirstWithout) -> Result<Vec<String>> {
        let (layout, mut warnings) = (&self.task.layout, Vec::new());
        let sequences = (dataset.cut, dataset.sequences());
        warnings.extend(self.shortened(&found.name, "sequences", sequences, self.room)?);
        if let Some(targets) = &dataset.targets {
            let (cut, longest) = ((targets.cut, dataset.len()), targets.longest());
            warnings.extend(self.shortened(&found.name, "targets", cut, longest)?);
        }
        match found.usage {
            SplitUse::Train => check_gold(layout, self.reading()?.sequence, dataset, first)?,
            _ => warnings.extend(without_gold(layout, self.reading()?.sequence, &found.name, dataset)),
        }
        Ok(warnings)
    }

    fn split(&self, found: &FoundSplit, seen: &mut Seen, warnings: &mut Vec<String>) -> Result<Split> {
        let (reading, layout) = (self.reading()?, &self.task.layout);
        let (mut dataset, mut kept) = (Dataset::new(layout), Kept::default());
        dataset.targets = targets(reading.sequence, layout, self.config)?;
        dataset.of_masked = self.plan.head == Some(HeadKind::MaskedLanguageModel);
        if dataset.of_masked || matches!(self.plan.head, Some(HeadKind::Classification { .. })) {
            dataset.rereads = self.config.decoder().cloned();
        }
        dataset.first_position = self.config.first_position() as u32;
        let (fields, mut blank, mut first) = (read_fields(&reading), 0, FirstWithout::default());
        parse(self.task, found, self.max_bad_records, |examples| {
            dataset.add(&examples, &reading)?;
            seen.add(found, &examples)?;
            blank += examples.iter().filter(|example| is_blank(example, &fields)).count();
            first.look(layout, &examples);
            if found.usage != SplitUse::Train {
                examples.iter().try_for_each(|example| kept.add(example))?;
            }
            Ok(())
        })?;
        if blank > 0 {
            warnings.push(format!(
                "{blank} of {} of {} have no text: the model reads nothing but special tokens",
                words::plural(dataset.len() as u64, "example"),
                found.name
            ));
        }
        warnings.extend(self.check(found, &dataset, &first)?);
        Ok(Split { name: found.name.clone(), usage: found.usage, examples: kept, dataset })
    }
}

/// Labels and targets that an evaluated split lacks: it is for prediction alone, or in part.
fn without_gold(layout: &Layout, sequence: &Sequence, name: &str, dataset: &Dataset) -> Vec<String> {
    let gold = layout.fields.iter().filter(|field| field.gold);
    let missing = gold.map(|field| {
        let said = sequence.target.as_ref().is_some_and(|target| target.text == field.name);
        let targets = dataset.targets.as_ref().filter(|_| said).map(|targets| targets.missing);
        (&field.name, targets.unwrap_or_else(|| dataset.unlabelled(&field.name)))
    });
    let sentence = |(field, missing): (&String, usize)| match missing == dataset.len() {
        true => format!("{name} has no {field}: there are predictions of it and no metrics"),
        false => format!(
            "{missing} of {} examples of {name} have no {field}; they are predicted and not scored",
            dataset.len()
        ),
    };
    missing.filter(|(_, missing)| *missing > 0).map(sentence).collect()
}

/// The targets of a sequence that a decoder should turn into something else.
pub fn targets(sequence: &Sequence, layout: &Layout, config: &dyn Architecture) -> Result<Option<Targets>> {
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

/// Where the first example of a split stands that lacks a gold field, by the field.
#[derive(Default)]
pub struct FirstWithout(BTreeMap<String, String>);

impl FirstWithout {
    /// Looks through examples, in their order.
    pub fn look(&mut self, layout: &Layout, examples: &[Example]) {
        let gold = layout.fields.iter().enumerate().filter(|(_, field)| field.gold);
        for (place, field) in gold.filter(|(_, field)| !self.0.contains_key(&field.name)).collect::<Vec<_>>()
        {
            let lacks = |example: &&Example| example.values.get(place).is_none_or(Option::is_none);
            if let Some(example) = examples.iter().find(lacks) {
                self.0.insert(field.name.clone(), example.origin.to_string());
            }
        }
    }

    /// The sentence about so many examples without a field.
    fn sentence(&self, field: &str, missing: usize, what: &str) -> String {
        let place = self.0.get(field).map_or(String::new(), |origin| format!("{origin}: "));
        match missing {
            1 => format!("{place}1 example of the training split has no {what}; it cannot be learned from"),
            _ => format!(
                "{place}{missing} examples of the training split have no {what}, this one the first; they cannot \
                 be learned from"
            ),
        }
    }
}

/// What trains needs its labels and its targets.
fn check_gold(layout: &Layout, sequence: &Sequence, train: &Dataset, first: &FirstWithout) -> Result<()> {
    let target = sequence.target.as_ref().map_or("", |target| target.text.as_str());
    if let Some(targets) = train.targets.as_ref().filter(|targets| targets.missing > 0) {
        bail!("{}", first.sentence(target, targets.missing, "target"));
    }
    for field in layout.fields.iter().filter(|field| field.gold) {
        let missing = train.unlabelled(&field.name);
        if missing > 0 {
            bail!("{}", first.sentence(&field.name, missing, &field.name));
        }
    }
    Ok(())
}
