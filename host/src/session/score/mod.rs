//! Scoring predictions of any system: the task's parse, score and measure over
//! two files, without a model.

mod identifiers;
mod lines;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use host_engine::data::find::{FoundSplit, container_of};
use host_engine::data::kept::Kept;
use host_ir::task::{
    Example, FieldValue, Layout, Prediction, PredictionColumn, PredictionType, PredictionValue, SplitUse,
};
use host_plugin::Task;

use crate::cell::{Confidence, Metrics, PluginSpec};
use crate::runs::words;
use crate::session::data::{self, LeftOut};
use crate::session::load;
use crate::session::score::identifiers::ByIdentifier;
use crate::session::scores::Scores;

/// What predictions came to.
pub struct Scored {
    pub metrics: Metrics,
    pub confidence: Confidence,
    /// Examples of the gold file.
    pub examples: usize,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// Scores a file of predictions against a file of gold.
///
/// # Errors
/// Files that cannot be read or do not belong together, with file and line.
pub fn score(spec: &PluginSpec, gold: &Path, predictions: &Path) -> Result<Scored> {
    let task = load::task(spec)?;
    let layout = &task.layout;
    for path in [gold, predictions] {
        // A pipe, which can be read once.
        if path.exists() && !path.is_file() {
            bail!(
                "{} is no file, and what is scored is read twice; write it to a file first",
                path.display()
            );
        }
    }
    let evaluated = layout.splits.iter().find(|split| split.usage == SplitUse::Evaluate);
    let split = evaluated.ok_or_else(|| anyhow!("the task {} evaluates no split", spec.name))?;
    let found = FoundSplit {
        name: split.name.clone(),
        usage: split.usage,
        files: vec![gold.to_path_buf()],
        container: container_of(split, gold),
    };
    let mut warnings = Vec::new();
    let (examples, left_out) = parsed(&task, &found)?;
    warnings.extend(left_out.warnings(&gold.display().to_string()));
    if examples.is_empty() {
        bail!("{}: there is no example in it, so there is nothing to score", gold.display());
    }
    match without_gold(layout, &examples)? {
        0 => {}
        all if all == examples.len() => {
            bail!("{}: no example has anything to score against", gold.display())
        }
        some => warnings.push(format!("{some} examples of {} have no gold and do not count", gold.display())),
    }
    let predicted = match in_own_format(layout, predictions)? {
        true => {
            let found = FoundSplit { files: vec![predictions.to_path_buf()], ..found };
            matched(layout, &examples, &parsed(&task, &found)?.0)?
        }
        false => lines::read(layout, &examples, predictions)?,
    };
    warnings.extend(unpredicted(layout, &examples, &predicted)?);
    let scores =
        Scores::of(&task, &examples, predicted.iter().map(|known| Ok(nothing_found(layout, known?))))?;
    let (confidence, _) = scores.confidence(&task, &split.name)?;
    Ok(Scored { metrics: scores.metrics(&task)?, confidence, examples: examples.len(), warnings })
}

/// The examples of a file.
fn parsed(task: &Task, file: &FoundSplit) -> Result<(Kept<Example>, LeftOut)> {
    let mut examples = Kept::default();
    let left_out = data::parse(task, file, 0, |chunk| {
        Ok(chunk.iter().try_for_each(|example| examples.add(example))?)
    })?;
    Ok((examples, left_out))
}

/// The number of examples that have no gold, where the task has any.
fn without_gold(layout: &Layout, examples: &Kept<Example>) -> Result<usize> {
    let mut without = 0;
    for example in examples.iter() {
        without += usize::from(!counts(layout, &example?));
    }
    Ok(without)
}

/// Whether an example has something to score against: gold, where the task has any.
fn counts(layout: &Layout, example: &Example) -> bool {
    let mut gold = layout.fields.iter().zip(&example.values).filter(|(field, _)| field.gold).peekable();
    gold.peek().is_none() || gold.any(|(_, value)| value.is_some())
}

/// A sentence about examples that should be scored and of which nothing is predicted.
fn unpredicted(
    layout: &Layout,
    examples: &Kept<Example>,
    predicted: &Kept<Prediction>,
) -> Result<Option<String>> {
    let in_file = |place: usize| layout.text_files.iter().any(|(_, column)| *column == place);
    let (mut all, mut missing) = (0, 0);
    for (example, prediction) in examples.iter().zip(predicted.iter()) {
        if counts(layout, &example?) {
            let mut values = (0..).zip(prediction?).filter(|(place, _)| !in_file(*place));
            all += 1;
            missing += u64::from(values.any(|(_, value)| value.is_none()));
        }
    }
    // Without gold a prediction is itself what is measured, and nothing is right or wrong.
    let verdict = match layout.fields.iter().any(|field| field.gold) {
        true => "count as wrong",
        false => "do not count",
    };
    let of = words::plural(all, "example");
    Ok((missing > 0).then(|| format!("{} of {of} have no prediction; they {verdict}", words::count(missing))))
}

/// Where spans are wanted and none are predicted, none were found.
fn nothing_found(layout: &Layout, mut prediction: Prediction) -> Prediction {
    for (column, value) in layout.predictions.iter().zip(&mut prediction) {
        if matches!(column.kind, PredictionType::Spans(_)) {
            value.get_or_insert_with(|| PredictionValue::Spans(Vec::new()));
        }
    }
    prediction
}

/// Whether a file has examples in the task's own format, their gold being what
/// was predicted: where examples have an identifier, and the file is no JSON.
fn in_own_format(layout: &Layout, path: &Path) -> Result<bool> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut first = String::new();
    BufReader::new(file).read_line(&mut first).with_context(|| path.display().to_string())?;
    Ok(layout.id.is_some() && !first.trim_start().starts_with('{'))
}

/// Predictions from the gold fields of other examples, matched by identifier.
/// Those of examples that are not asked for do not count.
fn matched(layout: &Layout, examples: &Kept<Example>, responses: &Kept<Example>) -> Result<Kept<Prediction>> {
    let id = layout.id.as_ref().and_then(|id| layout.field(id));
    let id = id.ok_or_else(|| anyhow!("the task's examples have no identifier"))?;
    ByIdentifier::new(examples, id)?;
    let responses = ByIdentifier::new(responses, id)?;
    let value = |response: Option<&Example>, column: &PredictionColumn| {
        let field = layout.fields.iter().position(|field| field.gold && field.name == column.name)?;
        match (response.and_then(|response| response.values[field].clone()), &column.kind) {
            (Some(FieldValue::Spans(spans)), PredictionType::Spans(_)) => Some(PredictionValue::Spans(spans)),
            (Some(FieldValue::Label(label)), PredictionType::Label(_)) => Some(PredictionValue::Label(label)),
            (Some(FieldValue::Text(text)), PredictionType::Text) => Some(PredictionValue::Text(text)),
            _ => None,
        }
    };
    let mut predictions = Kept::default();
    for example in examples.iter() {
        let response = responses.find(example?.text(id).unwrap_or_default())?;
        predictions
            .add(&layout.predictions.iter().map(|column| value(response.as_ref(), column)).collect())?;
    }
    Ok(predictions)
}
