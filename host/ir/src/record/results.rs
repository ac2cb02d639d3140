//! What a task makes of outputs: the functions of `group`, and the values of
//! `output`, `prediction`, `statistic` and `metric`.

use std::collections::BTreeMap;

use crate::record::{Answer, Phase, Recorder};
use crate::settings::did_you_mean;
use crate::task::{Example, Outputs, Prediction, PredictionType, PredictionValue, Sums};

/// A chunk of examples for `predict`; a group is one example.
#[derive(Clone, Debug, Default)]
pub struct PredictCall {
    pub examples: Vec<Example>,
    /// Names of the outputs, in the order of [`Outputs`].
    pub names: Vec<String>,
    /// By example.
    pub outputs: Vec<Outputs>,
    /// The name of the generated texts, and the texts by example.
    pub generated: Option<(String, Vec<String>)>,
    /// By example; filled by the call.
    pub predictions: Vec<Prediction>,
}

/// A chunk of examples for `score`.
#[derive(Clone, Debug, Default)]
pub struct ScoreCall {
    pub examples: Vec<Example>,
    pub predictions: Vec<Prediction>,
    /// By group; filled by the call.
    pub sums: Vec<Sums>,
}

/// Samples for `measure`.
#[derive(Clone, Debug, Default)]
pub struct MeasureCall {
    /// Sums of each sample.
    pub samples: Vec<Sums>,
    /// Metrics of each sample, filled by the call.
    pub metrics: Vec<BTreeMap<String, f64>>,
}

impl Recorder {
    /// The examples of the chunk that is predicted or scored.
    fn chunk(&self, function: &'static str) -> Answer<&[Example]> {
        self.only_in(function, &[Phase::Predict, Phase::Score])?;
        Ok(if self.phase == Phase::Predict { &self.predict.examples } else { &self.score.examples })
    }

    pub(super) fn example(&self, function: &'static str, example: u32) -> Answer<&Example> {
        let chunk = self.chunk(function)?;
        let count = chunk.len();
        chunk.get(example as usize).ok_or_else(|| {
            self.wrong(function, format!("{function}: there is no example {example}; there are {count}"))
        })
    }

    /// `group.size`: a group is one example.
    pub fn group_size(&self, group: u32) -> Answer<u32> {
        self.example("group.size", group)?;
        Ok(1)
    }

    /// `group.example`.
    pub fn group_example(&self, group: u32, place: u32) -> Answer<u32> {
        self.example("group.example", group)?;
        match place {
            0 => Ok(group),
            _ => Err(self.wrong(
                "group.example",
                format!("group.example: group {group} has one example, and {place} is asked for"),
            )),
        }
    }

    pub(super) fn readable(&self, function: &'static str, field: &str) -> Answer<usize> {
        let place = self.field_place(function, field)?;
        if self.layout.fields[place].gold && self.phase == Phase::Predict {
            return Err(
                self.wrong(function, format!("{function}: \"{field}\" is gold, which predict cannot read"))
            );
        }
        Ok(place)
    }

    /// `group.text`.
    pub fn group_text(&self, example: u32, field: &str) -> Answer<Result<String, String>> {
        let place = self.readable("group.text", field)?;
        let found = self.example("group.text", example)?;
        let text = found.text(place).map(str::to_string);
        Ok(text.ok_or_else(|| format!("{}: the example has no text \"{field}\"", found.origin)))
    }

    /// `group.texts`.
    pub fn group_texts(&self, example: u32, field: &str) -> Answer<Result<Vec<String>, String>> {
        let place = self.readable("group.texts", field)?;
        let found = self.example("group.texts", example)?;
        let texts = found.texts(place).map(<[String]>::to_vec);
        Ok(texts.ok_or_else(|| format!("{}: the example has no texts \"{field}\"", found.origin)))
    }

    /// `group.label`.
    pub fn group_label(&self, example: u32, field: &str) -> Answer<Option<u32>> {
        let place = self.readable("group.label", field)?;
        Ok(self.example("group.label", example)?.label(place))
    }

    /// `output.reals`.
    pub fn output_reals(&self, example: u32, name: &str) -> Answer<Vec<f64>> {
        let function = "output.reals";
        self.only_in(function, &[Phase::Predict])?;
        self.example(function, example)?;
        match self.predict.names.iter().position(|known| known == name) {
            Some(place) => Ok(self.predict.outputs[example as usize][place]
                .iter()
                .map(|&value| f64::from(value))
                .collect()),
            None => {
                let known: Vec<&str> = self.predict.names.iter().map(String::as_str).collect();
                Err(self.wrong(
                    function,
                    format!("{function}: no output is called \"{name}\"{}", did_you_mean(name, &known)),
                ))
            }
        }
    }

    /// `output.text`.
    pub fn output_text(&self, example: u32, name: &str) -> Answer<String> {
        let function = "output.text";
        self.only_in(function, &[Phase::Predict])?;
        self.example(function, example)?;
        match &self.predict.generated {
            Some((known, texts)) if known == name => {
                Ok(texts.get(example as usize).cloned().unwrap_or_default())
            }
            other => {
                let known: Vec<&str> = other.iter().map(|(known, _)| known.as_str()).collect();
                Err(self.wrong(
                    function,
                    format!(
                        "{function}: no generated text is called \"{name}\"{}",
                        did_you_mean(name, &known)
                    ),
                ))
            }
        }
    }

    pub(super) fn column(&self, function: &'static str, name: &str) -> Answer<usize> {
        self.layout.prediction(name).ok_or_else(|| {
            let known: Vec<&str> =
                self.layout.predictions.iter().map(|column| column.name.as_str()).collect();
            self.wrong(
                function,
                format!("{function}: no prediction is called \"{name}\"{}", did_you_mean(name, &known)),
            )
        })
    }

    /// `prediction.set-label`, `set-real` and `set-text`.
    pub fn set_prediction(&mut self, example: u32, name: &str, value: PredictionValue) -> Answer<()> {
        let function = "prediction.set";
        self.only_in(function, &[Phase::Predict])?;
        self.example(function, example)?;
        let column = self.column(function, name)?;
        let fits = match (&self.layout.predictions[column].kind, &value) {
            (PredictionType::Label(field), PredictionValue::Label(label)) => {
                self.layout.labels(field).is_some_and(|names| (*label as usize) < names.len())
            }
            (PredictionType::Real, PredictionValue::Real(_))
            | (PredictionType::Text, PredictionValue::Text(_))
            | (PredictionType::Spans(_), PredictionValue::Spans(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(self
                .wrong(function, format!("{function}: {value:?} is no value of the prediction \"{name}\"")));
        }
        let columns = self.layout.predictions.len();
        self.predict.predictions.resize(self.predict.examples.len(), vec![None; columns]);
        self.predict.predictions[example as usize][column] = Some(value);
        Ok(())
    }

    pub(super) fn get_prediction(
        &self,
        function: &'static str,
        example: u32,
        name: &str,
    ) -> Answer<Option<PredictionValue>> {
        self.only_in(function, &[Phase::Score])?;
        self.example(function, example)?;
        let column = self.column(function, name)?;
        Ok(self.score.predictions.get(example as usize).and_then(|prediction| prediction[column].clone()))
    }

    /// `prediction.get-label`.
    pub fn prediction_label(&self, example: u32, name: &str) -> Answer<Option<u32>> {
        Ok(match self.get_prediction("prediction.get-label", example, name)? {
            Some(PredictionValue::Label(label)) => Some(label),
            _ => None,
        })
    }

    /// `prediction.get-real`.
    pub fn prediction_real(&self, example: u32, name: &str) -> Answer<Option<f64>> {
        Ok(match self.get_prediction("prediction.get-real", example, name)? {
            Some(PredictionValue::Real(real)) => Some(real),
            _ => None,
        })
    }

    /// `prediction.get-text`.
    pub fn prediction_text(&self, example: u32, name: &str) -> Answer<Option<String>> {
        Ok(match self.get_prediction("prediction.get-text", example, name)? {
            Some(PredictionValue::Text(text)) => Some(text),
            _ => None,
        })
    }

    fn statistic(&self, function: &'static str, name: &str) -> Answer<()> {
        match self.layout.statistics.iter().any(|known| known == name) {
            true => Ok(()),
            false => Err(self.wrong(function, format!("{function}: no statistic is called \"{name}\""))),
        }
    }

    /// `statistic.add`.
    pub fn add_statistic(&mut self, group: u32, name: &str, key: u64, value: f64) -> Answer<()> {
        let function = "statistic.add";
        self.only_in(function, &[Phase::Score])?;
        self.statistic(function, name)?;
        self.example(function, group)?;
        self.score.sums.resize_with(self.score.examples.len(), Sums::default);
        *self.score.sums[group as usize].entry((name.to_string(), key)).or_default() += value;
        Ok(())
    }

    /// `statistic.sum-of`.
    pub fn sum_of(&self, sample: u32, name: &str, key: u64) -> Answer<f64> {
        let function = "statistic.sum-of";
        self.only_in(function, &[Phase::Measure])?;
        self.statistic(function, name)?;
        match self.measure.samples.get(sample as usize) {
            Some(sums) => Ok(sums.get(&(name.to_string(), key)).copied().unwrap_or(0.0)),
            None => Err(self.wrong(function, format!("{function}: there is no sample {sample}"))),
        }
    }

    /// `metric.set`.
    pub fn set_metric(&mut self, sample: u32, name: &str, value: f64) -> Answer<()> {
        let function = "metric.set";
        self.only_in(function, &[Phase::Measure])?;
        if !self.layout.metrics.iter().any(|metric| metric.name == name) {
            let known: Vec<&str> = self.layout.metrics.iter().map(|metric| metric.name.as_str()).collect();
            return Err(self.wrong(
                function,
                format!("{function}: no metric is called \"{name}\"{}", did_you_mean(name, &known)),
            ));
        }
        if sample as usize >= self.measure.samples.len() {
            return Err(self.wrong(function, format!("{function}: there is no sample {sample}")));
        }
        self.measure.metrics.resize_with(self.measure.samples.len(), BTreeMap::new);
        self.measure.metrics[sample as usize].insert(name.to_string(), value);
        Ok(())
    }
}
