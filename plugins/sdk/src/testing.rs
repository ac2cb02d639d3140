//! Tests of plugins without a sandbox: the host's own recorder in this thread,
//! a small model, and ways to ask for plans and scores.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use host_ir::method::MethodPlan;
use host_ir::model::{ModelDescription, Module, Parameter, ParameterId, Role, SiteKind};
use host_ir::record::{Answer, MeasureCall, ParseCall, Phase, PredictCall, Recorder, ScoreCall};
use host_ir::settings::{Description, Values};
use host_ir::task::{
    Container, Example, Layout, Origin, Outputs, Parsed, Prediction, Record, Sums, TaskPlan,
};

use crate::method::Method;
use crate::settings::Config;
use crate::task::Task;

pub use host_ir::settings::Setting;

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::new(Recorder::describing());
}

/// Calls the recorder of this thread.
///
/// # Panics
/// With the host's sentence, where the host would end the call.
pub(crate) fn recorded<T>(call: impl FnOnce(&mut Recorder) -> Answer<T>) -> T {
    match RECORDER.with_borrow_mut(call) {
        Ok(value) => value,
        Err(error) => std::panic::panic_any(error.to_string()),
    }
}

/// Runs a call with a recorder; the sentence where it is refused.
fn calling<T>(recorder: Recorder, call: impl FnOnce() -> T) -> Result<(Recorder, T), String> {
    RECORDER.set(recorder);
    crate::node::forget_place();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    std::panic::set_hook(hook);
    let recorder = RECORDER.take();
    match result {
        Ok(value) => Ok((recorder, value)),
        Err(panic) => Err(panic.downcast::<String>().map_or("it panicked".into(), |sentence| *sentence)),
    }
}

/// What a plugin's `describe` declares.
///
/// # Errors
/// The host's sentence.
pub fn describe<T: Config>() -> Result<Description, String> {
    let (recorder, ()) =
        calling(Recorder::describing(), || crate::method::describe::<T>("plugin", "0.0.0", ""))?;
    Ok(recorder.description)
}

fn resolved<T: Config>(values: &[(&str, Setting)]) -> Result<(Description, Values), String> {
    let description = describe::<T>()?;
    let values: Values = values.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    let values = description.resolve(&values).map_err(|error| error.to_string())?;
    Ok((description, values))
}

/// A method's plan for a model, with a user's values.
///
/// # Errors
/// The host's or the plugin's sentence.
pub fn plan<T: Method>(model: &ModelDescription, values: &[(&str, Setting)]) -> Result<MethodPlan, String> {
    let (description, values) = resolved::<T>(values)?;
    let mut recorder = Recorder::calling(Phase::MethodPlan, description, values);
    recorder.model = Some(Arc::new(model.clone()));
    recorder.tokenize = Some(Arc::new(|text: &str| text.bytes().map(u32::from).collect()));
    let (recorder, result) = calling(recorder, crate::method::plan::<T>)?;
    result.map(|()| recorder.method)
}

/// Sizes of a model of the BERT kind.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub architecture: &'static str,
    pub hidden: u32,
    pub layers: u32,
    pub intermediate: u32,
    pub vocabulary: u32,
    pub positions: u32,
    pub classes: u32,
}

/// all-MiniLM-L6-v2 with five classes.
pub const MINILM: Sizes = Sizes {
    architecture: "bert",
    hidden: 384,
    layers: 6,
    intermediate: 1536,
    vocabulary: 30_522,
    positions: 512,
    classes: 5,
};

/// A description of a model of the BERT kind under transformers' names, with a
/// classification head.
pub fn bert(sizes: Sizes) -> ModelDescription {
    let mut model =
        ModelDescription { architecture: sizes.architecture.into(), ..ModelDescription::default() };
    let facts = [
        ("hidden_size", sizes.hidden),
        ("num_hidden_layers", sizes.layers),
        ("vocab_size", sizes.vocabulary),
    ];
    model.facts = facts.iter().map(|(key, value)| (key.to_string(), u64::from(*value))).collect();
    let h = sizes.hidden;
    let embedding = |model: &mut ModelDescription, name: &str, entries: u32| {
        let id = parameter(
            model,
            &format!("bert.embeddings.{name}.weight"),
            &[entries, h],
            Role::Embedding,
            false,
        );
        module(
            model,
            &format!("bert.embeddings.{name}"),
            SiteKind::Embedding,
            None,
            (entries, h),
            [Some(id), None],
            false,
        );
        id
    };
    let word = embedding(&mut model, "word_embeddings", sizes.vocabulary);
    model.word_embeddings = Some(word);
    embedding(&mut model, "position_embeddings", sizes.positions);
    embedding(&mut model, "token_type_embeddings", 2);
    pair(&mut model, "bert.embeddings.LayerNorm", SiteKind::Norm, None, (h, h), false);
    for layer in 0..sizes.layers {
        let name = format!("bert.encoder.layer.{layer}");
        for part in
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
        {
            pair(&mut model, &format!("{name}.{part}"), SiteKind::Linear, Some(layer), (h, h), false);
        }
        pair(
            &mut model,
            &format!("{name}.attention.output.LayerNorm"),
            SiteKind::Norm,
            Some(layer),
            (h, h),
            false,
        );
        pair(
            &mut model,
            &format!("{name}.intermediate.dense"),
            SiteKind::Linear,
            Some(layer),
            (h, sizes.intermediate),
            false,
        );
        pair(
            &mut model,
            &format!("{name}.output.dense"),
            SiteKind::Linear,
            Some(layer),
            (sizes.intermediate, h),
            false,
        );
        pair(&mut model, &format!("{name}.output.LayerNorm"), SiteKind::Norm, Some(layer), (h, h), false);
    }
    pair(&mut model, "bert.pooler.dense", SiteKind::Linear, None, (h, h), false);
    pair(&mut model, "classifier", SiteKind::Linear, None, (h, sizes.classes), true);
    model
}

fn parameter(model: &mut ModelDescription, name: &str, shape: &[u32], role: Role, head: bool) -> ParameterId {
    model.parameters.push(Parameter { name: name.into(), shape: shape.to_vec(), role, head });
    ParameterId(model.parameters.len() as u32 - 1)
}

fn module(
    model: &mut ModelDescription,
    name: &str,
    kind: SiteKind,
    layer: Option<u32>,
    (inputs, outputs): (u32, u32),
    [weight, bias]: [Option<ParameterId>; 2],
    head: bool,
) {
    model.modules.push(Module { name: name.into(), kind, layer, inputs, outputs, weight, bias, head });
}

/// A module with weight and bias.
fn pair(
    model: &mut ModelDescription,
    name: &str,
    kind: SiteKind,
    layer: Option<u32>,
    sizes: (u32, u32),
    head: bool,
) {
    let (shape, roles) = match kind {
        SiteKind::Norm => (vec![sizes.1], [Role::NormWeight, Role::NormBias]),
        _ => (vec![sizes.1, sizes.0], [Role::Weight, Role::Bias]),
    };
    let weight = parameter(model, &format!("{name}.weight"), &shape, roles[0], head);
    let bias = parameter(model, &format!("{name}.bias"), &[sizes.1], roles[1], head);
    module(model, name, kind, layer, sizes, [Some(weight), Some(bias)], head);
}

/// Records as the host reads them: lines, JSON lines and CSV.
fn records(container: Container, content: &str) -> Result<Vec<Record>, String> {
    let record = |line: u64, text: &str, json| {
        let origin = Origin { file: "data".into(), line };
        Record { text: text.into(), json, origin }
    };
    match container {
        // One document, or file, is one record.
        Container::Documents | Container::Whole => Ok(vec![record(1, content, None)]),
        Container::Lines => {
            Ok(content.lines().zip(1..).map(|(text, line)| record(line, text, None)).collect())
        }
        Container::JsonLines => {
            let lines = content.lines().zip(1..);
            let object = |(text, line): (&str, u64)| match serde_json::from_str(text) {
                Ok(json) => Ok(record(line, text, Some(json))),
                Err(error) => Err(format!("data:{line}: {error}")),
            };
            lines.map(object).collect()
        }
        Container::Csv => {
            let mut rows = rows(content).into_iter();
            let names = rows.next().unwrap_or_default();
            let object = |cells: Vec<String>| -> serde_json::Map<String, serde_json::Value> {
                let value = |cell: String| if cell.is_empty() { None } else { Some(cell) }.into();
                names.iter().cloned().zip(cells.into_iter().map(value)).collect()
            };
            let objects = rows.map(object).zip(2..);
            Ok(objects
                .map(|(row, line)| record(line, &serde_json::json!(row).to_string(), Some(row.into())))
                .collect())
        }
        other => Err(format!("the container {} is not read here", other.name())),
    }
}

/// The cells of each row of CSV.
fn rows(content: &str) -> Vec<Vec<String>> {
    let (mut parser, mut input) = (csv_core::Reader::new(), content.as_bytes());
    let (mut output, mut ends) = (vec![0; content.len() + 1], vec![0; content.len() + 1]);
    let mut rows = Vec::new();
    let (mut filled, mut cells) = (0, 0);
    loop {
        let (result, read, written, ended) =
            parser.read_record(input, &mut output[filled..], &mut ends[cells..]);
        input = &input[read..];
        filled += written;
        cells += ended;
        match result {
            csv_core::ReadRecordResult::End => return rows,
            csv_core::ReadRecordResult::Record => {
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let cell = |(start, &end): (usize, &usize)| {
                    String::from_utf8_lossy(&output[start..end]).into_owned()
                };
                rows.push(starts.zip(&ends[..cells]).map(cell).collect());
                (filled, cells) = (0, 0);
            }
            // The buffers hold all of the content: what is left is its end.
            _ => {}
        }
    }
}

/// A task with a user's values, called natively.
pub struct TaskUnderTest {
    description: Description,
    values: Values,
    pub layout: Layout,
    /// What the model is said to have generated: a name, and a text for each example.
    pub generated: Option<(String, Vec<String>)>,
}

impl TaskUnderTest {
    /// Asks for the layout.
    ///
    /// # Errors
    /// The host's sentence.
    pub fn new<T: Task>(values: &[(&str, Setting)]) -> Result<TaskUnderTest, String> {
        let (description, values) = resolved::<T>(values)?;
        let recorder = Recorder::calling(Phase::Layout, description.clone(), values.clone());
        let (recorder, ()) = calling(recorder, crate::task::layout::<T>)?;
        Ok(TaskUnderTest { description, values, layout: recorder.layout, generated: None })
    }

    fn recorder(&self, phase: Phase) -> Recorder {
        let mut recorder = Recorder::calling(phase, self.description.clone(), self.values.clone());
        recorder.layout = self.layout.clone();
        recorder
    }

    /// Examples of a file's content.
    ///
    /// # Errors
    /// The host's sentence.
    pub fn parse<T: Task>(&self, split: &str, container: Container, content: &str) -> Result<Parsed, String> {
        let records = records(container, content)?;
        let (count, mut recorder) = (records.len() as u32, self.recorder(Phase::Parse));
        recorder.parse = ParseCall::new(split, container, records);
        let (recorder, ()) = calling(recorder, || crate::task::parse::<T>(count))?;
        Ok(recorder.parse.finished())
    }

    /// Examples of the task's samples, by split.
    ///
    /// # Errors
    /// The host's sentence; a sample of which no example comes.
    pub fn samples<T: Task>(&self) -> Result<BTreeMap<String, Vec<Example>>, String> {
        let mut found: BTreeMap<String, Vec<Example>> = BTreeMap::new();
        for (name, content) in &self.layout.samples {
            let files =
                self.layout.splits.iter().flat_map(|split| split.files.iter().map(move |file| (split, file)));
            let known = files.into_iter().find(|(_, file)| file.pattern == *name);
            let (split, file) = known.ok_or_else(|| format!("{name} is found for no split"))?;
            let parsed = self.parse::<T>(&split.name, file.container, content)?;
            match parsed.rejected.first() {
                Some(sentence) => return Err(format!("{name}: {sentence}")),
                None => found.entry(split.name.clone()).or_default().extend(parsed.examples),
            }
        }
        Ok(found)
    }

    /// The model side, for a model.
    ///
    /// # Errors
    /// The host's sentence.
    pub fn plan<T: Task>(&self, model: &ModelDescription) -> Result<TaskPlan, String> {
        let mut recorder = self.recorder(Phase::TaskPlan);
        recorder.model = Some(Arc::new(model.clone()));
        let (recorder, ()) = calling(recorder, crate::task::plan::<T>)?;
        Ok(recorder.task)
    }

    /// Metrics of examples from the model's outputs, all the way.
    ///
    /// # Errors
    /// The host's sentence.
    pub fn metrics<T: Task>(
        &self,
        names: &[&str],
        examples: Vec<Example>,
        outputs: Vec<Outputs>,
    ) -> Result<BTreeMap<String, f64>, String> {
        let count = examples.len() as u32;
        let mut recorder = self.recorder(Phase::Predict);
        let names = names.iter().map(|name| name.to_string()).collect();
        let examples_of_call = examples.clone();
        let generated = self.generated.clone();
        recorder.predict =
            PredictCall { examples: examples_of_call, names, outputs, generated, predictions: Vec::new() };
        let (recorder, ()) = calling(recorder, || crate::task::predict::<T>(count))?;
        let predictions: Vec<Prediction> = recorder.predict.predictions;
        let mut recorder = self.recorder(Phase::Score);
        recorder.score = ScoreCall { examples, predictions, sums: Vec::new() };
        let (recorder, ()) = calling(recorder, || crate::task::score::<T>(count))?;
        let mut total = Sums::new();
        for sums in recorder.score.sums {
            sums.into_iter().for_each(|(key, value)| *total.entry(key).or_default() += value);
        }
        let mut recorder = self.recorder(Phase::Measure);
        recorder.measure = MeasureCall { samples: vec![total], metrics: Vec::new() };
        let (mut recorder, ()) = calling(recorder, || crate::task::measure::<T>(1))?;
        Ok(recorder.measure.metrics.pop().unwrap_or_default())
    }
}
