//! Predictions of any system in lines, one for each example, in their order: JSON objects,
//! as a run writes them, or plain values.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use host_engine::data::kept::Kept;
use host_engine::data::records::{self, Chunk};
use host_ir::settings::did_you_mean;
use host_ir::task::{
    Container, Example, FieldValue, Layout, Prediction, PredictionColumn, PredictionType, PredictionValue,
    Record,
};
use serde_json::Value;

/// The predictions of a file, one for each example, in their order.
///
/// # Errors
/// Another number of them; a line that is none, or is that of another example.
pub fn read(layout: &Layout, examples: &Kept<Example>, path: &Path) -> Result<Kept<Prediction>> {
    let (mut predictions, mut next) = (Kept::default(), examples.iter());
    let (mut found, mut json, mut wrong) = (0, None, None);
    each(path, |record| {
        found += 1;
        // Behind a line that is none, and where there is no example, lines only count.
        let Some(example) = next.next().filter(|_| wrong.is_none()) else { return Ok(()) };
        let prediction = match *json.get_or_insert_with(|| record.text.trim_start().starts_with('{')) {
            true => object(layout, &example?, &record.text),
            false => columns(layout, &record.text),
        };
        match prediction {
            Ok(prediction) => predictions.add(&prediction)?,
            Err(sentence) => wrong = Some(anyhow!("{}: {sentence}", record.origin)),
        }
        Ok(())
    })?;
    if found != examples.len() {
        bail!(
            "{}: there are {found} predictions, and the gold file has {} examples; one for each is wanted, in its order",
            path.display(),
            examples.len()
        );
    }
    wrong.map_or(Ok(predictions), Err)
}

/// Hands on the lines of a file that are not empty.
fn each(path: &Path, mut take: impl FnMut(Record) -> Result<()>) -> Result<()> {
    records::read(path, Container::Lines, |chunk: Chunk| match chunk.unreadable.into_iter().next() {
        Some(sentence) => bail!(sentence),
        None => chunk.records.into_iter().try_for_each(&mut take),
    })
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
