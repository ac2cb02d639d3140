//! The functions of the contract, handed on to the recorder; here what every plugin
//! calls, the rest in files by who calls.

mod method;
mod results;
mod task;

use host_ir::record::{Answer, NamesOrPattern, Recorder};
use host_ir::settings::{Setting, SettingType};

use crate::runtime::MemoryLimit;

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package host:room;
        world room {
            import peft:plugin/report@0.1.0;
            import peft:plugin/settings@0.1.0;
            import peft:plugin/graph@0.1.0;
            import peft:plugin/model@0.1.0;
            import peft:plugin/planner@0.1.0;
            import peft:plugin/source@0.1.0;
            import peft:plugin/field@0.1.0;
            import peft:plugin/input@0.1.0;
            import peft:plugin/example@0.1.0;
            import peft:plugin/sequence@0.1.0;
            import peft:plugin/head@0.1.0;
            import peft:plugin/objective@0.1.0;
            import peft:plugin/generate@0.1.0;
            import peft:plugin/output@0.1.0;
            import peft:plugin/group@0.1.0;
            import peft:plugin/prediction@0.1.0;
            import peft:plugin/statistic@0.1.0;
            import peft:plugin/metric@0.1.0;
            import peft:plugin/words@0.1.0;
        }
    ",
    imports: { default: trappable },
});

use peft::plugin::graph::Node;
use peft::plugin::model::Site;
use peft::plugin::settings::Selection as WireSelection;

/// What a call's store holds.
pub struct State {
    pub recorder: Recorder,
    pub memory: MemoryLimit,
}

/// An answer of the recorder, as a trap where it is an error.
fn lift<T>(answer: Answer<T>) -> wasmtime::Result<T> {
    answer.map_err(wasmtime::Error::from)
}

fn node(answer: Answer<u32>) -> wasmtime::Result<Node> {
    Ok(Node { id: lift(answer)? })
}

fn nodes(answer: Answer<Vec<u32>>) -> wasmtime::Result<Vec<Node>> {
    Ok(lift(answer)?.into_iter().map(|id| Node { id }).collect())
}

fn sites(answer: Answer<Vec<u32>>) -> wasmtime::Result<Vec<Site>> {
    Ok(lift(answer)?.into_iter().map(|id| Site { id }).collect())
}

fn selection(wire: WireSelection) -> NamesOrPattern {
    let mut values = wire.values;
    match wire.is_pattern {
        true => NamesOrPattern::Pattern(values.pop().unwrap_or_default()),
        false => NamesOrPattern::Names(values),
    }
}

impl peft::plugin::report::Host for State {
    fn at(&mut self, file: String, line: u32) -> wasmtime::Result<()> {
        self.recorder.at(&file, line);
        Ok(())
    }

    fn log(&mut self, message: String) -> wasmtime::Result<()> {
        self.recorder.log(&message);
        Ok(())
    }

    fn panicked(&mut self, message: String) -> wasmtime::Result<()> {
        self.recorder.panicked(&message);
        Ok(())
    }
}

impl State {
    fn setting(
        &mut self,
        key: &str,
        kind: SettingType,
        default: Setting,
        documentation: &str,
    ) -> wasmtime::Result<Setting> {
        lift(self.recorder.setting(key, kind, default, documentation))
    }
}

impl peft::plugin::settings::Host for State {
    fn plugin(&mut self, name: String, version: String, summary: String) -> wasmtime::Result<()> {
        self.recorder.plugin(&name, &version, &summary);
        Ok(())
    }

    fn whole(
        &mut self,
        key: String,
        default: i64,
        minimum: i64,
        maximum: i64,
        documentation: String,
    ) -> wasmtime::Result<i64> {
        match self.setting(
            &key,
            SettingType::Whole { minimum, maximum },
            Setting::Whole(default),
            &documentation,
        )? {
            Setting::Whole(value) => Ok(value),
            _ => Ok(default),
        }
    }

    fn real(
        &mut self,
        key: String,
        default: f64,
        minimum: f64,
        maximum: f64,
        documentation: String,
    ) -> wasmtime::Result<f64> {
        match self.setting(
            &key,
            SettingType::Real { minimum, maximum },
            Setting::Real(default),
            &documentation,
        )? {
            Setting::Real(value) => Ok(value),
            Setting::Whole(value) => Ok(value as f64),
            _ => Ok(default),
        }
    }

    fn boolean(&mut self, key: String, default: bool, documentation: String) -> wasmtime::Result<bool> {
        match self.setting(&key, SettingType::Boolean, Setting::Boolean(default), &documentation)? {
            Setting::Boolean(value) => Ok(value),
            _ => Ok(default),
        }
    }

    fn text(&mut self, key: String, default: String, documentation: String) -> wasmtime::Result<String> {
        match self.setting(&key, SettingType::Text, Setting::Text(default.clone()), &documentation)? {
            Setting::Text(value) => Ok(value),
            _ => Ok(default),
        }
    }

    fn optional_text(&mut self, key: String, documentation: String) -> wasmtime::Result<Option<String>> {
        match self.setting(&key, SettingType::OptionalText, Setting::Absent, &documentation)? {
            Setting::Text(value) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    fn choice(
        &mut self,
        key: String,
        default: String,
        options: Vec<String>,
        documentation: String,
    ) -> wasmtime::Result<String> {
        match self.setting(
            &key,
            SettingType::Choice(options),
            Setting::Text(default.clone()),
            &documentation,
        )? {
            Setting::Text(value) => Ok(value),
            _ => Ok(default),
        }
    }

    fn texts(
        &mut self,
        key: String,
        default: Vec<String>,
        documentation: String,
    ) -> wasmtime::Result<Vec<String>> {
        match self.setting(&key, SettingType::Texts, Setting::Texts(default), &documentation)? {
            Setting::Texts(values) => Ok(values),
            _ => Ok(Vec::new()),
        }
    }

    fn wholes(
        &mut self,
        key: String,
        default: Vec<i64>,
        documentation: String,
    ) -> wasmtime::Result<Vec<i64>> {
        match self.setting(&key, SettingType::Wholes, Setting::Wholes(default), &documentation)? {
            Setting::Wholes(values) => Ok(values),
            Setting::Whole(value) => Ok(vec![value]),
            _ => Ok(Vec::new()),
        }
    }

    fn numbers(&mut self, key: String, documentation: String) -> wasmtime::Result<Vec<(String, f64)>> {
        match self.setting(&key, SettingType::Numbers, Setting::Numbers(Vec::new()), &documentation)? {
            Setting::Numbers(values) => Ok(values),
            _ => Ok(Vec::new()),
        }
    }

    fn names_or_pattern(
        &mut self,
        key: String,
        default: WireSelection,
        documentation: String,
    ) -> wasmtime::Result<WireSelection> {
        let default = match selection(default) {
            NamesOrPattern::Names(names) => Setting::Texts(names),
            NamesOrPattern::Pattern(pattern) => Setting::Text(pattern),
        };
        match self.setting(&key, SettingType::NamesOrPattern, default, &documentation)? {
            Setting::Text(pattern) => Ok(WireSelection { is_pattern: true, values: vec![pattern] }),
            Setting::Texts(values) => Ok(WireSelection { is_pattern: false, values }),
            _ => Ok(WireSelection { is_pattern: false, values: Vec::new() }),
        }
    }

    fn reject(&mut self, key: String, sentence: String) -> wasmtime::Result<()> {
        Err(self.recorder.reject_setting(&key, &sentence).into())
    }
}

/// Functions of the graph that answer with a node.
macro_rules! node_functions {
    ($($name:ident($($argument:ident: $kind:ty),*) = |$recorder:ident| $call:expr;)*) => {
        $(fn $name(&mut self, $($argument: $kind),*) -> wasmtime::Result<Node> {
            let $recorder = &mut self.recorder;
            node($call)
        })*
    };
}
use node_functions;
