//! How a task reads: the functions of `input` and `example`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::record::{Answer, Phase, Recorder};
use crate::settings::did_you_mean;
use crate::task::{Container, Example, FieldType, FieldValue, Parsed, Record};

/// A chunk of records for `parse`, and what became of it.
#[derive(Clone, Debug, Default)]
pub struct ParseCall {
    pub split: String,
    pub container: Option<Container>,
    pub records: Arc<Vec<Record>>,
    pub parsed: Parsed,
    /// The record of each example.
    owners: Vec<u32>,
    /// Records that are wrong.
    wrong: BTreeSet<u32>,
}

impl ParseCall {
    /// What the call came to: of a wrong record nothing stays, whatever was made of
    /// it before it was found wrong.
    pub fn finished(mut self) -> Parsed {
        let mut owners = self.owners.iter();
        let whole = |_: &Example| owners.next().is_none_or(|owner| !self.wrong.contains(owner));
        self.parsed.examples.retain(whole);
        self.parsed
    }
}

impl ParseCall {
    /// A chunk of records of a split.
    pub fn new(split: &str, container: Container, records: Vec<Record>) -> ParseCall {
        ParseCall {
            split: split.into(),
            container: Some(container),
            records: Arc::new(records),
            ..ParseCall::default()
        }
    }
}

impl Recorder {
    fn record(&self, function: &'static str, record: u32) -> Answer<&Record> {
        self.only_in(function, &[Phase::Parse])?;
        let found = self.parse.records.get(record as usize);
        found.ok_or_else(|| {
            self.wrong(
                function,
                format!("{function}: there is no record {record}; there are {}", self.parse.records.len()),
            )
        })
    }

    /// `input.split`.
    pub fn input_split(&self) -> Answer<String> {
        self.only_in("input.split", &[Phase::Parse])?;
        Ok(self.parse.split.clone())
    }

    /// `input.container`.
    pub fn input_container(&self) -> Answer<String> {
        self.only_in("input.container", &[Phase::Parse])?;
        Ok(self.parse.container.map_or("", Container::name).to_string())
    }

    /// `input.line`.
    pub fn input_line(&self, record: u32) -> Answer<String> {
        Ok(self.record("input.line", record)?.text.clone())
    }

    fn json(
        &self,
        function: &'static str,
        record: u32,
        path: &str,
    ) -> Answer<Result<&serde_json::Value, String>> {
        let record = self.record(function, record)?;
        let Some(mut value) = record.json.as_ref() else {
            return Ok(Err(format!("{}: the record has no named fields", record.origin)));
        };
        for part in path.split('.') {
            let next = match value {
                serde_json::Value::Array(list) => {
                    part.parse::<usize>().ok().and_then(|place| list.get(place))
                }
                other => other.get(part),
            };
            let Some(next) = next else {
                let known: Vec<&str> = value
                    .as_object()
                    .map_or(Vec::new(), |object| object.keys().map(String::as_str).collect());
                return Ok(Err(format!(
                    "{}: there is no \"{path}\"{}",
                    record.origin,
                    did_you_mean(part, &known)
                )));
            };
            value = next;
        }
        Ok(Ok(value))
    }

    /// `input.text`.
    pub fn input_text(&self, record: u32, path: &str) -> Answer<Result<String, String>> {
        let origin = &self.record("input.text", record)?.origin;
        Ok(self.json("input.text", record, path)?.and_then(|value| {
            let text = value.as_str().map(str::to_string);
            text.ok_or_else(|| format!("{origin}: \"{path}\" is {value}, and a string is wanted"))
        }))
    }

    /// `input.whole`.
    pub fn input_whole(&self, record: u32, path: &str) -> Answer<Result<i64, String>> {
        let origin = &self.record("input.whole", record)?.origin;
        Ok(self.json("input.whole", record, path)?.and_then(|value| {
            let whole = value.as_i64().or_else(|| value.as_str()?.parse().ok());
            whole.ok_or_else(|| format!("{origin}: \"{path}\" is {value}, and a whole number is wanted"))
        }))
    }

    /// `input.flag`.
    pub fn input_flag(&self, record: u32, path: &str) -> Answer<Result<bool, String>> {
        let origin = &self.record("input.flag", record)?.origin;
        Ok(self.json("input.flag", record, path)?.and_then(|value| {
            let word = value.as_str().map(str::to_lowercase);
            match (value.as_bool(), word.as_deref()) {
                (Some(flag), _) => Ok(flag),
                (_, Some("true")) => Ok(true),
                (_, Some("false")) => Ok(false),
                _ => Err(format!("{origin}: \"{path}\" is {value}, and true or false is wanted")),
            }
        }))
    }

    /// `input.length`.
    pub fn input_length(&self, record: u32, path: &str) -> Answer<Result<u32, String>> {
        let origin = &self.record("input.length", record)?.origin;
        Ok(self.json("input.length", record, path)?.and_then(|value| {
            let list = value.as_array().map(|list| list.len() as u32);
            list.ok_or_else(|| format!("{origin}: \"{path}\" is {value}, and a list is wanted"))
        }))
    }

    /// `input.has`.
    pub fn input_has(&self, record: u32, path: &str) -> Answer<bool> {
        Ok(self.json("input.has", record, path)?.is_ok_and(|value| !value.is_null()))
    }

    /// `input.skip`.
    pub fn skip(&mut self, record: u32, reason: &str) -> Answer<()> {
        self.record("input.skip", record)?;
        *self.parse.parsed.skipped.entry(reason.to_string()).or_default() += 1;
        Ok(())
    }

    /// `input.reject`.
    pub fn reject(&mut self, record: u32, sentence: &str) -> Answer<()> {
        let place = self.record("input.reject", record)?.origin.to_string();
        let sentence = match sentence.starts_with(&place) {
            true => sentence.to_string(),
            false => format!("{place}: {sentence}"),
        };
        self.parse.parsed.rejected.push(sentence);
        self.parse.wrong.insert(record);
        Ok(())
    }

    /// `example.add`.
    pub fn add_example(&mut self, record: u32) -> Answer<u32> {
        let origin = self.record("example.add", record)?.origin.clone();
        let values = vec![None; self.layout.fields.len()];
        self.parse.parsed.examples.push(Example { origin, values });
        self.parse.owners.push(record);
        Ok(self.parse.parsed.examples.len() as u32 - 1)
    }

    pub(super) fn put(
        &mut self,
        function: &'static str,
        example: u32,
        field: usize,
        value: FieldValue,
    ) -> Answer<()> {
        let count = self.parse.parsed.examples.len();
        match self.parse.parsed.examples.get_mut(example as usize) {
            Some(found) => {
                found.values[field] = Some(value);
                Ok(())
            }
            None => {
                Err(self
                    .wrong(function, format!("{function}: there is no example {example}; there are {count}")))
            }
        }
    }

    /// `example.put-text`.
    pub fn put_text(&mut self, example: u32, field: &str, text: &str) -> Answer<()> {
        let place = self.text_field("example.put-text", field)?;
        self.put("example.put-text", example, place, FieldValue::Text(text.to_string()))
    }

    /// `example.put-texts`.
    pub fn put_texts(&mut self, example: u32, field: &str, texts: Vec<String>) -> Answer<()> {
        let function = "example.put-texts";
        let place = self.field_of(function, field, &FieldType::Texts)?;
        self.put(function, example, place, FieldValue::Texts(texts))
    }

    /// `example.put-rest`.
    pub fn put_rest(&mut self, example: u32, field: &str, start: u32) -> Answer<()> {
        let function = "example.put-rest";
        let place = self.text_field(function, field)?;
        let owner = self.parse.owners.get(example as usize).copied();
        let Some(owner) = owner else {
            return Err(self.wrong(function, format!("{function}: there is no example {example}")));
        };
        match self.record(function, owner)?.text.get(start as usize..) {
            Some(rest) => {
                let rest = rest.to_string();
                self.put(function, example, place, FieldValue::Text(rest))
            }
            None => Err(self.wrong(
                function,
                format!("{function}: byte {start} is no border of a character of the record"),
            )),
        }
    }

    fn text_field(&self, function: &'static str, field: &str) -> Answer<usize> {
        self.field_of(function, field, &FieldType::Text)
    }

    /// The place of a field of a type without labels.
    fn field_of(&self, function: &'static str, field: &str, kind: &FieldType) -> Answer<usize> {
        self.only_in(function, &[Phase::Parse])?;
        let place = self.field_place(function, field)?;
        match self.layout.fields[place].kind == *kind {
            true => Ok(place),
            false => Err(self.wrong(
                function,
                format!("{function}: the field \"{field}\" is {}", self.layout.fields[place].kind.name()),
            )),
        }
    }

    /// `example.put-label`: outside the inventory is an error of the record.
    pub fn put_label(&mut self, example: u32, field: &str, label: i64) -> Answer<()> {
        let function = "example.put-label";
        self.only_in(function, &[Phase::Parse])?;
        let names = self.names(field)?;
        match u32::try_from(label).ok().filter(|&label| (label as usize) < names.len()) {
            Some(label) => {
                let place = self.field_place(function, field)?;
                self.put(function, example, place, FieldValue::Label(label))
            }
            None => self.reject_label(
                example,
                &format!("the {field} is {label}, and 0 to {} are wanted", names.len() - 1),
            ),
        }
    }

    /// `example.put-label-name`.
    pub fn put_label_name(&mut self, example: u32, field: &str, name: &str) -> Answer<()> {
        let function = "example.put-label-name";
        self.only_in(function, &[Phase::Parse])?;
        let names = self.names(field)?;
        match names.iter().position(|known| known == name) {
            Some(label) => {
                let place = self.field_place(function, field)?;
                self.put(function, example, place, FieldValue::Label(label as u32))
            }
            None => self.reject_label(
                example,
                &format!("the {field} is \"{name}\", and one of {} is wanted", names.join(", ")),
            ),
        }
    }

    fn reject_label(&mut self, example: u32, sentence: &str) -> Answer<()> {
        match self.parse.owners.get(example as usize).copied() {
            Some(owner) => self.reject(owner, sentence),
            None => Err(self.wrong("example", format!("there is no example {example}"))),
        }
    }
}
