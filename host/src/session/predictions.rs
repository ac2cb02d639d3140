//! Predictions as files: the run's own, with gold beside them, and those that the
//! task declares for whoever scores them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use host_engine::data::kept::Kept;
use host_engine::files::write::write_parts;
use host_ir::task::{
    Container, Example, FieldValue, FileValue, Form, Layout, Prediction, PredictionFile, PredictionType,
    PredictionValue,
};
use serde_json::{Map, Value, json};

/// Writes the predictions of a split: one JSON object a line, and the task's files.
///
/// # Errors
/// A value that has not the form that the task declares; a disk that is full.
pub fn write(
    directory: &Path,
    layout: &Layout,
    split: &str,
    examples: &Kept<Example>,
    predictions: &Kept<Prediction>,
) -> Result<()> {
    let lines = each(examples, predictions, |example, prediction| {
        Ok(format!("{}\n", line(layout, example, prediction)))
    });
    write_parts(&directory.join(format!("predictions-{split}.jsonl")), lines)?;
    for file in &layout.prediction_files {
        let rows = each(examples, predictions, |example, prediction| row(layout, file, example, prediction));
        let lines = head(file).into_iter().map(Ok).chain(rows);
        write_parts(&directory.join(format!("{split}-{}", file.name)), lines)
            .with_context(|| format!("the prediction file {} of the split {split}", file.name))?;
    }
    for (name, column) in &layout.text_files {
        let texts = each(examples, predictions, |_, prediction| match &prediction[*column] {
            Some(PredictionValue::Text(text)) => Ok(text.clone()),
            _ => Ok(String::new()),
        });
        write_parts(&directory.join(format!("{split}-{name}")), texts)?;
    }
    Ok(())
}

/// What a file has of each example.
fn each(
    examples: &Kept<Example>,
    predictions: &Kept<Prediction>,
    text: impl Fn(&Example, &Prediction) -> Result<String>,
) -> impl Iterator<Item = Result<String>> {
    examples.iter().zip(predictions.iter()).map(move |(example, prediction)| text(&example?, &prediction?))
}

/// An example's predictions, with its place and its gold labels.
fn line(layout: &Layout, example: &Example, prediction: &Prediction) -> Value {
    let mut object = Map::new();
    object.insert("origin".into(), json!(example.origin.to_string()));
    // What has a file of its own is not written twice.
    let in_file = |place: usize| layout.text_files.iter().any(|(_, column)| *column == place);
    let columns = layout.predictions.iter().zip(prediction).enumerate();
    for (_, (column, value)) in columns.filter(|(place, _)| !in_file(*place)) {
        let value = match value {
            Some(PredictionValue::Label(label)) => json!(label),
            Some(PredictionValue::Real(real)) => json!(real),
            Some(PredictionValue::Text(text)) => json!(text),
            Some(PredictionValue::Spans(spans)) => json!(spans),
            None => Value::Null,
        };
        object.insert(column.name.clone(), value);
    }
    for (field, value) in layout.fields.iter().zip(&example.values).filter(|(field, _)| field.gold) {
        let value = match value {
            Some(FieldValue::Label(label)) => json!(label),
            Some(FieldValue::Text(text)) => json!(text),
            Some(FieldValue::Texts(texts) | FieldValue::Words(texts)) => json!(texts),
            Some(FieldValue::WordNumbers(numbers)) => json!(numbers),
            Some(FieldValue::Spans(spans)) => json!(spans),
            None => continue,
        };
        object.insert(format!("gold_{}", field.name), value);
    }
    Value::Object(object)
}

/// A cell of CSV.
fn cell(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

/// The first line of a file that the task declares, where it has one of keys.
fn head(file: &PredictionFile) -> Option<String> {
    let keys = || file.columns.iter().map(|(key, ..)| cell(key)).collect::<Vec<_>>();
    (file.container == Container::Csv).then(|| format!("{}\n", keys().join(",")))
}

/// The line of an example in a file that the task declares.
fn row(layout: &Layout, file: &PredictionFile, example: &Example, prediction: &Prediction) -> Result<String> {
    let mut object = Map::new();
    for (key, source, form) in &file.columns {
        let value = value(layout, *source, *form, example, prediction);
        object.insert(key.clone(), value.with_context(|| format!("{}: {key}", example.origin))?);
    }
    let text = match file.container {
        Container::Csv => {
            let cells = object.values().map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => cell(text),
                other => other.to_string(),
            });
            cells.collect::<Vec<_>>().join(",")
        }
        _ => Value::Object(object).to_string(),
    };
    Ok(format!("{text}\n"))
}

/// A field or a prediction in the form that a file wants; null where there is none.
fn value(
    layout: &Layout,
    source: FileValue,
    form: Form,
    example: &Example,
    prediction: &Prediction,
) -> Result<Value> {
    let label = |field: &str, label: u32| match (form, layout.labels(field)) {
        (Form::Number, _) => Ok(json!(label)),
        (_, Some(names)) => match (form, names[label as usize].as_str()) {
            (Form::Boolean, "true") => Ok(json!(true)),
            (Form::Boolean, "false") => Ok(json!(false)),
            (Form::Text, name) => Ok(json!(name)),
            (_, name) => bail!("the label {name} is neither true nor false"),
        },
        _ => bail!("the field {field} is no label"),
    };
    match source {
        FileValue::Field(place) => match (&example.values[place], form) {
            (None, _) => Ok(Value::Null),
            (Some(FieldValue::Text(text)), Form::Text) => Ok(json!(text)),
            (Some(FieldValue::Text(text)), Form::Number) => {
                let number: serde_json::Number =
                    text.trim().parse().with_context(|| format!("\"{text}\" is no number"))?;
                Ok(Value::Number(number))
            }
            (Some(FieldValue::Label(number)), _) => label(&layout.fields[place].name, *number),
            _ => bail!("the field {} has not this form", layout.fields[place].name),
        },
        FileValue::Prediction(place) => match (&prediction[place], &layout.predictions[place].kind) {
            (None, _) => Ok(Value::Null),
            (Some(PredictionValue::Label(number)), PredictionType::Label(field)) => label(field, *number),
            (Some(PredictionValue::Real(real)), _) if form == Form::Number => Ok(json!(real)),
            (Some(PredictionValue::Text(text)), _) if form == Form::Text => Ok(json!(text)),
            _ => bail!("the prediction {} has not this form", layout.predictions[place].name),
        },
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{Field, FieldType, Origin, PredictionColumn};

    use super::*;

    fn layout(container: Container, form: Form) -> Layout {
        let labels = vec!["false".to_string(), "true".to_string()];
        Layout {
            fields: vec![
                Field { name: "idx".into(), kind: FieldType::Text, gold: false },
                Field { name: "label".into(), kind: FieldType::Label(labels), gold: true },
            ],
            predictions: vec![PredictionColumn {
                name: "label".into(),
                kind: PredictionType::Label("label".into()),
            }],
            prediction_files: vec![PredictionFile {
                name: "out".into(),
                container,
                columns: vec![
                    ("idx".into(), FileValue::Field(0), Form::Number),
                    ("answer, yes".into(), FileValue::Prediction(0), form),
                ],
            }],
            ..Layout::default()
        }
    }

    fn written(layout: &Layout, idx: &str) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let example = |idx: Option<&str>| Example {
            origin: Origin { file: "data".into(), line: 3 },
            values: vec![idx.map(|idx| FieldValue::Text(idx.into())), Some(FieldValue::Label(0))],
        };
        let (mut examples, mut predictions) = (Kept::default(), Kept::default());
        for (idx, prediction) in [(Some(idx), Some(PredictionValue::Label(1))), (None, None)] {
            examples.add(&example(idx))?;
            predictions.add(&vec![prediction])?;
        }
        write(folder.path(), layout, "val", &examples, &predictions)?;
        let own = std::fs::read_to_string(folder.path().join("predictions-val.jsonl")).unwrap();
        assert_eq!(own.lines().next(), Some(r#"{"origin":"data:3","label":1,"gold_label":0}"#));
        Ok(std::fs::read_to_string(folder.path().join("val-out")).unwrap())
    }

    #[test]
    fn declared_files_have_their_forms() {
        let json = layout(Container::JsonLines, Form::Boolean);
        let wanted = "{\"idx\":7,\"answer, yes\":true}\n{\"idx\":null,\"answer, yes\":null}\n";
        assert_eq!(written(&json, "7").unwrap(), wanted);
        let csv = layout(Container::Csv, Form::Text);
        assert_eq!(written(&csv, "7").unwrap(), "idx,\"answer, yes\"\n7,true\n,\n");
        let error = format!("{:#}", written(&json, "seven").unwrap_err());
        assert!(error.contains("file out of the split val: data:3: idx: \"seven\" is no number"), "{error}");
    }
}
