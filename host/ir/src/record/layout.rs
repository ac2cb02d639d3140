//! The data side that a task declares: the functions of `source` and `field`, and
//! the declarations of `prediction`, `statistic` and `metric`.

use crate::record::{Answer, Phase, Recorder};
use crate::settings::did_you_mean;
use crate::task::{
    Container, Field, FieldType, FilePattern, FileValue, Form, Metric, PredictionColumn, PredictionFile,
    PredictionType, Split, SplitUse,
};

/// The most bytes of all samples of a task.
const MOST_SAMPLES: usize = 256 << 10;

impl Recorder {
    fn laying_out(&self, function: &'static str) -> Answer<()> {
        self.only_in(function, &[Phase::Layout])
    }

    /// `source.train`, `evaluate` and `optional`.
    pub fn split(&mut self, name: &str, usage: SplitUse) -> Answer<()> {
        self.laying_out("source")?;
        if self.layout.splits.iter().any(|split| split.name == name) {
            return Err(self.wrong("source", format!("the split \"{name}\" is declared twice")));
        }
        self.layout.splits.push(Split { name: name.into(), usage, files: Vec::new() });
        Ok(())
    }

    /// `source.file`.
    pub fn file(&mut self, split: &str, pattern: &str, container: &str) -> Answer<()> {
        self.laying_out("source.file")?;
        let Some(known) = Container::from_name(container) else {
            let names: Vec<&str> = Container::NAMES.iter().map(|(name, _)| *name).collect();
            return Err(self.wrong(
                "source.file",
                format!(
                    "source.file: there is no container \"{container}\"{}",
                    did_you_mean(container, &names)
                ),
            ));
        };
        match self.layout.splits.iter_mut().find(|known| known.name == split) {
            Some(split) => {
                split.files.push(FilePattern { pattern: pattern.into(), container: known });
                Ok(())
            }
            None => {
                Err(self.wrong("source.file", format!("source.file: the split \"{split}\" is not declared")))
            }
        }
    }

    /// `source.sample`.
    pub fn sample(&mut self, name: &str, content: &str) -> Answer<()> {
        let function = "source.sample";
        self.laying_out(function)?;
        let plain = |part: &str| {
            !part.is_empty()
                && part != ".."
                && part.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter))
        };
        let all: usize = self.layout.samples.iter().map(|(_, content)| content.len()).sum();
        if !name.split('/').all(plain) || all + content.len() > MOST_SAMPLES {
            return Err(self.wrong(
                function,
                format!("{function}: a plain name below the data's folder and at most 256 KB of samples are wanted, not \"{name}\""),
            ));
        }
        self.layout.samples.push((name.into(), content.into()));
        Ok(())
    }

    /// `field.text`, `field.texts` and `field.label`.
    pub fn field(&mut self, name: &str, kind: FieldType) -> Answer<()> {
        self.laying_out("field")?;
        if self.layout.field(name).is_some() {
            return Err(self.wrong("field", format!("the field \"{name}\" is declared twice")));
        }
        if matches!(&kind, FieldType::Label(names) if names.is_empty()) {
            return Err(self.wrong("field.label", format!("field.label: \"{name}\" has no labels")));
        }
        self.layout.fields.push(Field { name: name.into(), kind, gold: false });
        Ok(())
    }

    /// `field.gold`.
    pub fn gold(&mut self, name: &str) -> Answer<()> {
        self.laying_out("field.gold")?;
        let place = self.field_place("field.gold", name)?;
        self.layout.fields[place].gold = true;
        Ok(())
    }

    /// `field.id`.
    pub fn id_field(&mut self, name: &str) -> Answer<()> {
        self.laying_out("field.id")?;
        let place = self.field_place("field.id", name)?;
        if self.layout.fields[place].kind != FieldType::Text || self.layout.fields[place].gold {
            return Err(self.wrong("field.id", format!("field.id: \"{name}\" is no text of the input")));
        }
        match self.layout.id.replace(name.into()) {
            None => Ok(()),
            Some(known) => {
                Err(self.wrong("field.id", format!("field.id: \"{known}\" identifies examples already")))
            }
        }
    }

    /// `prediction.text-file`.
    pub fn text_file(&mut self, name: &str, prediction: &str) -> Answer<()> {
        let function = "prediction.text-file";
        self.laying_out(function)?;
        let column = self.column(function, prediction)?;
        let plain = name.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter));
        if !plain || name.is_empty() || self.layout.predictions[column].kind != PredictionType::Text {
            return Err(self.wrong(
                function,
                format!("{function}: a plain name and a prediction that is a text are wanted, not \"{name}\" and \"{prediction}\""),
            ));
        }
        self.layout.text_files.push((name.into(), column));
        Ok(())
    }

    /// `field.names`.
    pub fn names(&self, name: &str) -> Answer<Vec<String>> {
        let place = self.field_place("field.names", name)?;
        match &self.layout.fields[place].kind {
            FieldType::Label(names) => Ok(names.clone()),
            _ => Err(self.wrong("field.names", format!("field.names: \"{name}\" is no label"))),
        }
    }

    /// The place of a declared field.
    pub(super) fn field_place(&self, function: &'static str, name: &str) -> Answer<usize> {
        self.layout.field(name).ok_or_else(|| {
            let known: Vec<&str> = self.layout.fields.iter().map(|field| field.name.as_str()).collect();
            self.wrong(
                function,
                format!("{function}: no field is called \"{name}\"{}", did_you_mean(name, &known)),
            )
        })
    }

    /// `prediction.label`, `prediction.real` and `prediction.text`.
    pub fn prediction(&mut self, name: &str, kind: PredictionType) -> Answer<()> {
        self.laying_out("prediction")?;
        if let PredictionType::Label(field) = &kind {
            self.names(field)?;
        }
        self.layout.predictions.push(PredictionColumn { name: name.into(), kind });
        Ok(())
    }

    /// `prediction.file`.
    pub fn prediction_file(&mut self, name: &str, container: &str) -> Answer<()> {
        let function = "prediction.file";
        self.laying_out(function)?;
        let plain = name.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter));
        let container = Container::from_name(container)
            .filter(|container| matches!(container, Container::JsonLines | Container::Csv));
        let (true, Some(container)) = (plain && !name.is_empty(), container) else {
            return Err(self.wrong(
                function,
                format!(
                    "{function}: a plain name and the container json-lines or csv are wanted for \"{name}\""
                ),
            ));
        };
        let file = PredictionFile { name: name.into(), container, columns: Vec::new() };
        self.layout.prediction_files.push(file);
        Ok(())
    }

    /// `prediction.file-field` and `file-column`.
    pub fn prediction_file_column(
        &mut self,
        file: &str,
        key: &str,
        (of_prediction, source): (bool, &str),
        form: &str,
    ) -> Answer<()> {
        let function = if of_prediction { "prediction.file-column" } else { "prediction.file-field" };
        self.laying_out(function)?;
        let value = match of_prediction {
            true => FileValue::Prediction(self.column(function, source)?),
            false => FileValue::Field(self.field_place(function, source)?),
        };
        let known = Form::NAMES.iter().find(|(name, _)| *name == form);
        let place = self.layout.prediction_files.iter().position(|known| known.name == file);
        match (known, place) {
            (Some((_, form)), Some(place)) => {
                self.layout.prediction_files[place].columns.push((key.into(), value, *form));
                Ok(())
            }
            _ => Err(self.wrong(
                function,
                format!(
                    "{function}: a file that is declared and the form text, number or boolean are wanted, not \"{file}\" and \"{form}\""
                ),
            )),
        }
    }

    /// `statistic.sum`.
    pub fn sum(&mut self, name: &str) -> Answer<()> {
        self.laying_out("statistic.sum")?;
        self.layout.statistics.push(name.into());
        Ok(())
    }

    /// `metric.higher-is-better` and `lower-is-better`.
    pub fn metric(&mut self, name: &str, higher_is_better: bool) -> Answer<()> {
        self.laying_out("metric")?;
        self.layout.metrics.push(Metric { name: name.into(), higher_is_better });
        Ok(())
    }

    /// `metric.best`.
    pub fn best_metric(&mut self, name: &str) -> Answer<()> {
        self.laying_out("metric.best")?;
        if !self.layout.metrics.iter().any(|metric| metric.name == name) {
            return Err(self.wrong("metric.best", format!("metric.best: no metric is called \"{name}\"")));
        }
        self.layout.best = Some(name.into());
        Ok(())
    }
}
