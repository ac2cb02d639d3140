//! A plugin: a component, what it is, and its calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_ir::method::MethodPlan;
use host_ir::model::ModelDescription;
use host_ir::record::{
    MeasureCall, ParseCall, Phase, PredictCall, RecordError, Recorder, ScoreCall, Tokenize,
};
use host_ir::settings::{Description, Values};
use host_ir::task::{Container, Example, Layout, Outputs, Parsed, Prediction, Record, Sums, TaskPlan};
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Engine, Module, Store, Trap};
use wit_component::ComponentEncoder;

use crate::error::{PluginError, Problem};
use crate::imports::{Room, State};
use crate::limits::Limits;
use crate::runtime::{MemoryLimit, TICK, engine};

/// The version of the contract that this program offers.
pub const CONTRACT: &str = "0.1.0";
/// The package of the contract.
const PACKAGE: &str = "peft:plugin/";
/// The files of the contract, to compare imports with.
const CONTRACT_FILES: [&str; 6] = [
    include_str!("../../../wit/graph.wit"),
    include_str!("../../../wit/model.wit"),
    include_str!("../../../wit/method.wit"),
    include_str!("../../../wit/task.wit"),
    include_str!("../../../wit/words.wit"),
    include_str!("../../../wit/worlds.wit"),
];

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Method,
    Task,
}

impl Kind {
    /// The name of the interface that such a plugin exports, and of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Method => "method",
            Kind::Task => "task",
        }
    }
}

/// What a call answered, and what the plugin logged on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Called<T> {
    pub value: T,
    pub log: Vec<String>,
}

/// A component that is linked and ready to be called. Every call gets an
/// instance of its own, so that nothing is carried from one to the next.
#[derive(Clone)]
pub struct Plugin {
    pub kind: Kind,
    /// BLAKE3 of the file, in hexadecimal digits.
    pub digest: String,
    pub description: Description,
    /// Name and origin, for sentences.
    origin: String,
    limits: Limits,
    engine: &'static Engine,
    instance: InstancePre<State>,
}

impl Plugin {
    /// Loads a component, or a core module that carries its world, and asks it
    /// to describe itself. `origin` is where it comes from, for sentences.
    ///
    /// # Errors
    /// A file that is no plugin, or one of which `describe` fails.
    pub fn load(bytes: &[u8], origin: &str, limits: Limits) -> Result<Plugin, PluginError> {
        let failed = |problem| PluginError { origin: origin.into(), call: None, problem };
        let engine = engine().map_err(|sentence| failed(Problem::NotAComponent(sentence)))?;
        let component = encoded(engine, bytes).map_err(failed)?;
        let component = Component::new(engine, &component);
        let component = component.map_err(|error| failed(Problem::NotAComponent(format!("{error:#}"))))?;
        check_imports(engine, &component).map_err(failed)?;
        let kind = kind(&component).ok_or_else(|| failed(Problem::NoExports))?;
        let mut linker = Linker::new(engine);
        let linked = Room::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state);
        let instance = linked.and_then(|()| linker.instantiate_pre(&component));
        let instance = instance.map_err(|error| failed(Problem::OtherDraft(format!("{error:#}"))))?;
        let digest = blake3::hash(bytes).to_hex().to_string();
        let mut plugin = Plugin {
            kind,
            digest,
            description: Description::default(),
            origin: origin.into(),
            limits,
            engine,
            instance,
        };
        let described = plugin.call(Recorder::describing(), "describe", None, 0)?;
        plugin.description = described.description;
        if plugin.description.name.is_empty() {
            return Err(failed(Problem::Said("its describe gives no name (settings.plugin)".into())));
        }
        plugin.origin = format!("{} {} ({origin})", plugin.description.name, plugin.description.version);
        Ok(plugin)
    }

    fn error(&self, call: &'static str, problem: Problem) -> PluginError {
        PluginError { origin: self.origin.clone(), call: Some(call), problem }
    }

    /// Refuses a plugin of another kind.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn expect(self, wanted: Kind) -> Result<Plugin, PluginError> {
        match self.kind == wanted {
            true => Ok(self),
            false => {
                let problem = Problem::WrongKind { wanted: wanted.name(), has: self.kind.name() };
                Err(PluginError { origin: self.origin, call: None, problem })
            }
        }
    }

    /// Calls an export in a fresh instance. `count` is its argument, where it
    /// has one; `bytes` are handed over by the host and give further fuel.
    fn call(
        &self,
        recorder: Recorder,
        name: &'static str,
        count: Option<u32>,
        bytes: usize,
    ) -> Result<Recorder, PluginError> {
        let memory = MemoryLimit { bytes: self.limits.memory, refused: false };
        let mut store = Store::new(self.engine, State { recorder, memory });
        store.limiter(|state| &mut state.memory);
        let fuel = self.limits.fuel.saturating_add(self.limits.fuel_per_byte.saturating_mul(bytes as u64));
        let called = store.set_fuel(fuel).and_then(|()| {
            store.set_epoch_deadline((self.limits.time.as_millis() / TICK.as_millis()).max(1) as u64);
            self.call_in(&mut store, name, count)
        });
        let state = store.into_data();
        match called {
            Ok(Ok(())) => Ok(state.recorder),
            Ok(Err(sentence)) => Err(self.error(name, Problem::Said(sentence))),
            Err(error) => Err(self.error(name, self.trapped(&error, &state))),
        }
    }

    /// Exports carry no data: a count at the most, and a sentence back.
    fn call_in(
        &self,
        store: &mut Store<State>,
        name: &str,
        count: Option<u32>,
    ) -> wasmtime::Result<Result<(), String>> {
        let instance = self.instance.instantiate(&mut *store)?;
        let interface = format!("{PACKAGE}{}@{CONTRACT}", self.kind.name());
        let interface = instance.get_export_index(&mut *store, None, &interface);
        let export =
            interface.and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), name));
        let missing = || wasmtime::Error::msg(format!("it exports no {name}"));
        let export = export.ok_or_else(missing)?;
        if name == "describe" {
            let function = instance.get_typed_func::<(), ()>(&mut *store, export)?;
            function.call(&mut *store, ())?;
            return Ok(Ok(()));
        }
        match count {
            Some(count) => {
                let function =
                    instance.get_typed_func::<(u32,), (Result<(), String>,)>(&mut *store, export)?;
                Ok(function.call(&mut *store, (count,))?.0)
            }
            None => {
                let function = instance.get_typed_func::<(), (Result<(), String>,)>(&mut *store, export)?;
                Ok(function.call(&mut *store, ())?.0)
            }
        }
    }

    /// What an error of wasmtime means.
    fn trapped(&self, error: &wasmtime::Error, state: &State) -> Problem {
        let place = state.recorder.place.as_ref().map(ToString::to_string);
        if let Some(refused) = error.downcast_ref::<RecordError>() {
            return Problem::Refused(refused.clone());
        }
        if let Some(message) = &state.recorder.panic {
            return Problem::Panicked { message: message.clone(), place };
        }
        if state.memory.refused {
            return Problem::OutOfMemory(self.limits.memory >> 20);
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Problem::OutOfFuel,
            Some(Trap::Interrupt) => Problem::TimedOut(self.limits.time.as_secs()),
            Some(trap) => Problem::Trapped { message: trap.to_string(), place },
            None => Problem::Trapped { message: format!("{error:#}"), place },
        }
    }

    /// A method's plan for a model.
    ///
    /// # Errors
    /// Every way in which a plan can fail.
    pub fn plan_method(
        &self,
        values: Values,
        model: Arc<ModelDescription>,
        tokenize: Option<Tokenize>,
    ) -> Result<Called<MethodPlan>, PluginError> {
        let mut recorder = Recorder::calling(Phase::MethodPlan, self.description.clone(), values);
        recorder.model = Some(model);
        recorder.tokenize = tokenize;
        let recorder = self.call(recorder, "plan", None, 0)?;
        Ok(Called { value: recorder.method, log: recorder.log })
    }

    /// A task's side of calls, with its settings.
    ///
    /// # Errors
    /// Its `layout` fails.
    pub fn task(&self, values: Values) -> Result<Task, PluginError> {
        let recorder = Recorder::calling(Phase::Layout, self.description.clone(), values.clone());
        let recorder = self.call(recorder, "layout", None, 0)?;
        Ok(Task { plugin: self.clone(), values, layout: Arc::new(recorder.layout) })
    }
}

/// A task plugin with settings and layout.
#[derive(Clone)]
pub struct Task {
    plugin: Plugin,
    values: Values,
    pub layout: Arc<Layout>,
}

impl Task {
    fn recorder(&self, phase: Phase) -> Recorder {
        let mut recorder = Recorder::calling(phase, self.plugin.description.clone(), self.values.clone());
        recorder.layout = (*self.layout).clone();
        recorder
    }

    /// Examples of a chunk of records. May be called from several threads.
    ///
    /// # Errors
    /// The call fails; wrong records are part of the answer.
    pub fn parse(
        &self,
        split: &str,
        container: Container,
        records: Vec<Record>,
    ) -> Result<Parsed, PluginError> {
        let mut recorder = self.recorder(Phase::Parse);
        let (count, bytes) = (records.len() as u32, records.iter().map(|record| record.text.len()).sum());
        recorder.parse = ParseCall::new(split, container, records);
        Ok(self.plugin.call(recorder, "parse", Some(count), bytes)?.parse.finished())
    }

    /// The model side, when the examples of each split are counted.
    ///
    /// # Errors
    /// The call fails.
    pub fn plan(
        &self,
        model: Arc<ModelDescription>,
        counts: BTreeMap<String, u64>,
    ) -> Result<Called<TaskPlan>, PluginError> {
        let mut recorder = self.recorder(Phase::TaskPlan);
        recorder.model = Some(model);
        recorder.counts = counts;
        let recorder = self.plugin.call(recorder, "plan", None, 0)?;
        Ok(Called { value: recorder.task, log: recorder.log })
    }

    /// Predictions of examples from the model's outputs and from what was generated: a
    /// name, and a text for each example.
    ///
    /// # Errors
    /// The call fails.
    pub fn predict(
        &self,
        names: Vec<String>,
        examples: Vec<Example>,
        outputs: Vec<Outputs>,
        generated: Option<(String, Vec<String>)>,
    ) -> Result<Vec<Prediction>, PluginError> {
        let mut recorder = self.recorder(Phase::Predict);
        let count = examples.len();
        let bytes = outputs.iter().flatten().map(|values| values.len() * size_of::<f32>()).sum();
        let columns = self.layout.predictions.len();
        recorder.predict = PredictCall {
            examples,
            names,
            outputs,
            generated,
            predictions: vec![vec![None; columns]; count],
        };
        Ok(self.plugin.call(recorder, "predict", Some(count as u32), bytes)?.predict.predictions)
    }

    /// Sums of each example from predictions and gold.
    ///
    /// # Errors
    /// The call fails.
    pub fn score(
        &self,
        examples: Vec<Example>,
        predictions: Vec<Prediction>,
    ) -> Result<Vec<Sums>, PluginError> {
        let mut recorder = self.recorder(Phase::Score);
        let count = examples.len();
        let bytes = examples.iter().map(Example::bytes).sum::<usize>() + count;
        recorder.score = ScoreCall { examples, predictions, sums: vec![Sums::default(); count] };
        Ok(self.plugin.call(recorder, "score", Some(count as u32), bytes)?.score.sums)
    }

    /// Metrics of samples from their sums.
    ///
    /// # Errors
    /// The call fails.
    pub fn measure(&self, samples: Vec<Sums>) -> Result<Vec<BTreeMap<String, f64>>, PluginError> {
        let mut recorder = self.recorder(Phase::Measure);
        let count = samples.len();
        recorder.measure = MeasureCall { samples, metrics: vec![BTreeMap::new(); count] };
        Ok(self.plugin.call(recorder, "measure", Some(count as u32), count)?.measure.metrics)
    }
}

/// The bytes of a component: as they are, or made of a core module.
fn encoded(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let no_component = |sentence: String| Problem::NotAComponent(sentence);
    // The layer of the binary format, after magic number and version.
    match (bytes.get(..4), bytes.get(6)) {
        (Some(b"\0asm"), Some(1)) => Ok(bytes.to_vec()),
        (Some(b"\0asm"), Some(0)) => {
            // The encoder trusts the lengths of sections, which a file that was cut belies.
            Module::validate(engine, bytes).map_err(|error| no_component(format!("{error:#}")))?;
            let mut encoder = ComponentEncoder::default();
            let component = encoder.validate(true).module(bytes).and_then(|encoder| encoder.encode());
            component.map_err(|error| no_component(format!("{error:#}")))
        }
        _ => Err(no_component("the file does not start as WebAssembly does".into())),
    }
}

/// Whether an exported or imported name is an interface of the contract, with
/// its version.
fn contract_part(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn kind(component: &Component) -> Option<Kind> {
    let engine = component.engine();
    let component_type = component.component_type();
    let mut names = component_type.exports(engine).filter_map(|(name, _)| contract_part(name));
    names.find_map(|(interface, _)| {
        [Kind::Method, Kind::Task].into_iter().find(|kind| kind.name() == interface)
    })
}

/// Compares what a component imports with the contract, before linking, where
/// errors would be the linker's.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), Problem> {
    let component_type = component.component_type();
    let names: Vec<&str> = component_type.imports(engine).map(|(name, _)| name).collect();
    let wasi: Vec<&str> = names.iter().copied().filter(|name| name.starts_with("wasi")).collect();
    match wasi.as_slice() {
        [] => {}
        [one] => return Err(Problem::WantsWasi(one.to_string())),
        [one, two] => return Err(Problem::WantsWasi(format!("{one} and {two}"))),
        [one, two, rest @ ..] => {
            return Err(Problem::WantsWasi(format!("{one}, {two} and {} more", rest.len())));
        }
    }
    for (name, item) in component_type.imports(engine) {
        let Some((interface, version)) = contract_part(name) else {
            return Err(Problem::UnknownImport(name.into()));
        };
        let Some(known) = interface_text(interface) else {
            return Err(Problem::NewerContract { wanted: interface.into(), version: version.into() });
        };
        if !version.starts_with("0.1.") {
            return Err(Problem::NewerContract { wanted: interface.into(), version: version.into() });
        }
        let wasmtime::component::types::ComponentItem::ComponentInstance(instance) = item.ty else {
            continue;
        };
        for (function, item) in instance.exports(engine) {
            let is_function = matches!(item.ty, wasmtime::component::types::ComponentItem::ComponentFunc(_));
            if is_function && !known.contains(&format!("    {function}: func(")) {
                return Err(Problem::NewerContract {
                    wanted: format!("{interface}.{function}"),
                    version: version.into(),
                });
            }
        }
    }
    Ok(())
}

/// The text of an interface of the contract.
fn interface_text(name: &str) -> Option<&'static str> {
    let start = format!("interface {name} {{");
    CONTRACT_FILES.iter().find_map(|text| {
        let text = &text[text.find(&start)?..];
        Some(&text[..text.find("\n}").unwrap_or(text.len())])
    })
}
