//! Scoring predictions of any system: the task's parse, score and measure over
//! two files, without a model.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use host_engine::data::find::{FoundSplit, container_of};
use host_ir::settings::did_you_mean;
use host_ir::task::{
    Example, FieldValue, Layout, Prediction, PredictionColumn, PredictionType, PredictionValue, SplitUse,
};
use serde_json::Value;

use crate::cell::{Confidence, Metrics, PluginSpec};
use crate::confusion::confusions;
use crate::session::data;
use crate::session::evaluate::{CHUNK, constant};
use crate::session::prepare;
use crate::session::resample::{GroupSums, confidence};

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
    let task = prepare::task(spec)?;
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
    let mut examples = Vec::new();
    let mut warnings = Vec::new();
    let left_out = data::parse(&task, &found, 0, |chunk| {
        examples.extend(chunk);
        Ok(())
    })?;
    warnings.extend(left_out.warnings(&gold.display().to_string()));
    let without = examples.iter().filter(|example| !has_gold(layout, example)).count();
    match without {
        0 => {}
        all if all == examples.len() => {
            bail!("{}: no example has anything to score against", gold.display())
        }
        some => warnings.push(format!("{some} examples of {} have no gold and do not count", gold.display())),
    }
    let predicted = match in_own_format(layout, predictions)? {
        true => {
            let found = FoundSplit { files: vec![predictions.to_path_buf()], ..found };
            let mut responses = Vec::new();
            data::parse(&task, &found, 0, |chunk| {
                responses.extend(chunk);
                Ok(())
            })?;
            matched(layout, &examples, &responses)?
        }
        false => read(layout, &examples, predictions)?,
    };
    let mut sums = GroupSums::default();
    for (examples, predicted) in examples.chunks(CHUNK).zip(predicted.chunks(CHUNK)) {
        let scored = task.score(examples.to_vec(), predicted.to_vec())?;
        scored.into_iter().for_each(|group| sums.add(group));
    }
    let measured = task.measure(vec![sums.total()])?.pop().unwrap_or_default();
    let ordered = layout.metrics.iter();
    let metrics = ordered.filter_map(|metric| Some((metric.name.clone(), *measured.get(&metric.name)?)));
    let metrics = Metrics(metrics.collect());
    let resamples = sums.resample(&task, &split.name)?;
    let confidence = Confidence {
        confusions: confusions(layout, &examples, &predicted),
        ..confidence(&task, &resamples, constant(layout, &predicted))
    };
    Ok(Scored { metrics, confidence, examples: examples.len(), warnings })
}

fn has_gold(layout: &Layout, example: &Example) -> bool {
    let gold = layout.fields.iter().zip(&example.values).filter(|(field, _)| field.gold);
    gold.clone().count() == 0 || gold.into_iter().any(|(_, value)| value.is_some())
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
/// Those of examples that are not asked for do not count; where one is missing,
/// its spans are none.
fn matched(layout: &Layout, examples: &[Example], responses: &[Example]) -> Result<Vec<Prediction>> {
    let id = layout.id.as_ref().and_then(|id| layout.field(id));
    let id = id.ok_or_else(|| anyhow!("the task's examples have no identifier"))?;
    by_identifier(examples, id)?;
    let responses = by_identifier(responses, id)?;
    let value = |response: Option<&&Example>, column: &PredictionColumn| {
        let field = layout.fields.iter().position(|field| field.gold && field.name == column.name)?;
        match (response.and_then(|response| response.values[field].clone()), &column.kind) {
            (Some(FieldValue::Spans(spans)), PredictionType::Spans(_)) => Some(PredictionValue::Spans(spans)),
            (Some(FieldValue::Label(label)), PredictionType::Label(_)) => Some(PredictionValue::Label(label)),
            (Some(FieldValue::Text(text)), PredictionType::Text) => Some(PredictionValue::Text(text)),
            (None, PredictionType::Spans(_)) => Some(PredictionValue::Spans(Vec::new())),
            _ => None,
        }
    };
    let of = |example: &Example| {
        let response = responses.get(example.text(id).unwrap_or_default());
        layout.predictions.iter().map(|column| value(response, column)).collect()
    };
    Ok(examples.iter().map(of).collect())
}

/// Examples by the text that identifies them.
fn by_identifier(examples: &[Example], id: usize) -> Result<BTreeMap<&str, &Example>> {
    let mut found = BTreeMap::new();
    for example in examples {
        let name = example.text(id).unwrap_or_default();
        if found.insert(name, example).is_some() {
            bail!("{}: {name} is there twice", example.origin);
        }
    }
    Ok(found)
}

/// The predictions of a file, one for each example, in their order.
fn read(layout: &Layout, examples: &[Example], path: &Path) -> Result<Vec<Prediction>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines: Vec<(usize, &str)> =
        (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
    if lines.len() != examples.len() {
        bail!(
            "{}: there are {} predictions, and the gold file has {} examples; one for each is wanted, in its order",
            path.display(),
            lines.len(),
            examples.len()
        );
    }
    let json = text.trim_start().starts_with('{');
    let mut predictions = Vec::with_capacity(lines.len());
    for ((number, line), example) in lines.into_iter().zip(examples) {
        let prediction = match json {
            true => object(layout, example, line),
            false => columns(layout, line),
        };
        let placed = |sentence: String| anyhow!("{}:{number}: {sentence}", path.display());
        predictions.push(prediction.map_err(placed)?);
    }
    Ok(predictions)
}

/// The prediction of a line of JSON. What a run has written says to which
/// example it belongs.
fn object(layout: &Layout, example: &Example, line: &str) -> Result<Prediction, String> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("no JSON object: {error}"))?;
    let line_of = |origin: &str| origin.rsplit(':').next().map(str::to_string);
    if let Some(origin) = object.get("origin").and_then(Value::as_str)
        && line_of(origin) != line_of(&example.origin.to_string())
    {
        return Err(format!("this is the prediction for {origin}, and {} is next", example.origin));
    }
    for (field, value) in layout.fields.iter().zip(&example.values) {
        let noted = object.get(&format!("gold_{}", field.name)).and_then(Value::as_u64);
        if let (Some(noted), Some(FieldValue::Label(label))) = (noted, value)
            && noted != u64::from(*label)
        {
            return Err(format!(
                "it was made for the {} {noted}, and {} has {label}",
                field.name, example.origin
            ));
        }
    }
    let value = |column: &PredictionColumn| match object.get(&column.name) {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => one(layout, column, text).map(Some),
        Some(other) => one(layout, column, &other.to_string()).map(Some),
        // It stands in a file of its own, which no metric reads.
        None if layout.text_files.iter().any(|(_, place)| layout.predictions[*place] == *column) => Ok(None),
        None => {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("there is no \"{}\"{}", column.name, did_you_mean(&column.name, &known)))
        }
    };
    layout.predictions.iter().map(value).collect()
}

/// The prediction of a plain line, its columns separated by tabs.
fn columns(layout: &Layout, line: &str) -> Result<Prediction, String> {
    let wanted = layout.predictions.len();
    let cells: Vec<&str> = if wanted == 1 { vec![line] } else { line.split('\t').collect() };
    if cells.len() != wanted {
        let names: Vec<&str> = layout.predictions.iter().map(|column| column.name.as_str()).collect();
        let found = cells.len();
        return Err(format!("{found} columns, and {} are wanted, separated by tabs", names.join(", ")));
    }
    layout
        .predictions
        .iter()
        .zip(cells)
        .map(|(column, cell)| one(layout, column, cell.trim()).map(Some))
        .collect()
}

/// A value as it is written: a label's number or name, or a number.
fn one(layout: &Layout, column: &PredictionColumn, text: &str) -> Result<PredictionValue, String> {
    match &column.kind {
        PredictionType::Label(field) => {
            let names = layout.labels(field).unwrap_or_default();
            let by_name = names.iter().position(|name| name == text);
            let by_number = text.parse().ok().filter(|&number: &usize| number < names.len());
            match by_name.or(by_number) {
                Some(label) => Ok(PredictionValue::Label(label as u32)),
                None => Err(format!(
                    "the {} is \"{text}\", and 0 to {} or one of {} is wanted",
                    column.name,
                    names.len() - 1,
                    names.join(", ")
                )),
            }
        }
        PredictionType::Spans(_) => {
            let spans = serde_json::from_str(text).map(PredictionValue::Spans);
            spans.map_err(|_| {
                format!(
                    "the {} is {text}, and a list of [first word, last word, number] is wanted",
                    column.name
                )
            })
        }
        PredictionType::Text => Ok(PredictionValue::Text(text.into())),
        PredictionType::Real => match text.parse::<f64>() {
            Ok(real) => Ok(PredictionValue::Real(real)),
            Err(_) => Err(format!("the {} is \"{text}\", and a number is wanted", column.name)),
        },
    }
}
