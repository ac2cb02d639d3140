//! Methods: the model that one is asked to adapt, and the plan that one makes.

use std::panic::Location;

use crate::node::{Node, here};
use crate::raw;
use crate::settings::{Config, Patterns, Targets};

/// A method: its settings, and what it decides.
pub trait Method: Config {
    /// Says what trains, what is added and how values change.
    ///
    /// # Errors
    /// A sentence for the user.
    fn plan(&self, model: Model, plan: Plan) -> Result<(), String>;
}

/// The base model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model;

impl Model {
    /// `model_type` of the checkpoint.
    pub fn architecture(self) -> String {
        raw::architecture()
    }

    /// A whole number of config.json.
    pub fn fact(self, key: &str) -> Option<u64> {
        raw::fact(key)
    }

    /// Linear layers that the user's targets choose. Nothing chosen is an error.
    pub fn linears(self, targets: &Targets) -> Vec<Site> {
        self.selected("linear", targets)
    }

    /// Sites of a kind that the user's targets choose.
    pub fn selected(self, kind: &str, targets: &Targets) -> Vec<Site> {
        let sites = raw::select(
            kind,
            &targets.target_modules,
            &targets.exclude_modules,
            &targets.layers_to_transform,
            &targets.layers_pattern,
        );
        sites.into_iter().map(Site).collect()
    }

    /// All sites of a kind.
    pub fn sites(self, kind: &str) -> Vec<Site> {
        raw::sites(kind).into_iter().map(Site).collect()
    }

    /// Parameters with a role: "bias", "weight", "norm", "embedding", "head", "all".
    pub fn parameters(self, role: &str) -> Vec<Node> {
        raw::parameters(role).into_iter().map(Node).collect()
    }

    /// Parameters whose name matches a regular expression in full.
    pub fn parameters_matching(self, pattern: &str) -> Vec<Node> {
        raw::parameters_matching(pattern).into_iter().map(Node).collect()
    }

    pub fn parameter_name(self, parameter: Node) -> String {
        raw::parameter_name(parameter.0)
    }

    /// The table of word embeddings, [vocabulary, size].
    #[track_caller]
    pub fn word_embeddings(self) -> Node {
        here(Location::caller());
        Node(raw::word_embeddings())
    }

    /// The ids of a text, without special tokens.
    pub fn tokenize(self, text: &str) -> Vec<u32> {
        raw::tokenize(text)
    }
}

/// A module at which values can be read and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site(u32);

impl Site {
    pub fn name(self) -> String {
        raw::site_name(self.0)
    }

    /// The layer, counted from 0.
    pub fn layer(self) -> Option<u32> {
        raw::site_layer(self.0)
    }

    pub fn inputs(self) -> u32 {
        raw::site_inputs(self.0)
    }

    pub fn outputs(self) -> u32 {
        raw::site_outputs(self.0)
    }

    /// The number that the first matching pattern gives the site.
    pub fn lookup(self, patterns: &Patterns) -> Option<f64> {
        let keys: Vec<String> = patterns.0.iter().map(|(key, _)| key.clone()).collect();
        raw::lookup(self.0, &keys).map(|place| patterns.0[place as usize].1)
    }

    #[track_caller]
    pub fn input(self) -> Node {
        here(Location::caller());
        Node(raw::site_input(self.0))
    }

    #[track_caller]
    pub fn output(self) -> Node {
        here(Location::caller());
        Node(raw::site_output(self.0))
    }

    #[track_caller]
    pub fn weight(self) -> Node {
        here(Location::caller());
        Node(raw::site_weight(self.0))
    }

    #[track_caller]
    pub fn bias(self) -> Option<Node> {
        here(Location::caller());
        raw::site_bias(self.0).map(Node)
    }

    /// A new trained parameter of the site.
    #[track_caller]
    pub fn parameter(self, name: &str, initial: Node) -> Node {
        here(Location::caller());
        Node(raw::parameter(Some(self.0), name, initial.0))
    }

    /// A new frozen parameter of the site.
    #[track_caller]
    pub fn frozen(self, name: &str, initial: Node) -> Node {
        here(Location::caller());
        Node(raw::frozen(Some(self.0), name, initial.0))
    }

    #[track_caller]
    pub fn replace_input(self, value: Node) {
        here(Location::caller());
        raw::replace_input(self.0, value.0);
    }

    #[track_caller]
    pub fn replace_output(self, value: Node) {
        here(Location::caller());
        raw::replace_output(self.0, value.0);
    }

    /// As `replace_output`, for the first and the last tokens of a sequence.
    #[track_caller]
    pub fn replace_output_at(self, value: Node, first: u32, last: u32) {
        here(Location::caller());
        raw::replace_output_at(self.0, value.0, first, last);
    }

    #[track_caller]
    pub fn replace_weight(self, value: Node) {
        here(Location::caller());
        raw::replace_weight(self.0, value.0);
    }

    /// A change of the frozen weight, made once.
    #[track_caller]
    pub fn change_base(self, value: Node) {
        here(Location::caller());
        raw::change_base(self.0, value.0);
    }

    /// The weight that gives the same output in evaluation without hooks.
    #[track_caller]
    pub fn merge_as(self, weight: Node) {
        here(Location::caller());
        raw::merge_as(self.0, weight.0);
    }

    #[track_caller]
    pub fn merge_bias_as(self, bias: Node) {
        here(Location::caller());
        raw::merge_bias_as(self.0, bias.0);
    }

    /// Keys and values before those of an attention site.
    #[track_caller]
    pub fn prefix(self, keys: Node, values: Node) {
        here(Location::caller());
        raw::prefix(self.0, keys.0, values.0);
    }
}

/// What the method decides beside its sites.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan;

impl Plan {
    /// Trains parameters of the model: one, several, or none.
    #[track_caller]
    pub fn train(self, parameters: impl IntoIterator<Item = Node>) {
        here(Location::caller());
        parameters.into_iter().for_each(|parameter| raw::train(parameter.0));
    }

    /// The head that the task adds stays as it starts.
    pub fn freeze_head(self) {
        raw::freeze_head();
    }

    /// A new trained parameter that belongs to no site.
    #[track_caller]
    pub fn parameter(self, name: &str, initial: Node) -> Node {
        here(Location::caller());
        Node(raw::parameter(None, name, initial.0))
    }

    /// A new frozen parameter that belongs to no site.
    #[track_caller]
    pub fn frozen(self, name: &str, initial: Node) -> Node {
        here(Location::caller());
        Node(raw::frozen(None, name, initial.0))
    }

    /// Virtual tokens before the input, [count, embedding size].
    #[track_caller]
    pub fn prompt(self, embeddings: Node) {
        here(Location::caller());
        raw::prompt(embeddings.0);
    }

    /// A term of the loss.
    #[track_caller]
    pub fn add_loss(self, value: Node) {
        here(Location::caller());
        raw::add_loss(value.0);
    }

    /// The parameter's factor of the learning rate.
    #[track_caller]
    pub fn learning_rate(self, parameter: Node, factor: f64) {
        here(Location::caller());
        raw::learning_rate(parameter.0, factor);
    }

    /// The parameter's own weight decay.
    #[track_caller]
    pub fn weight_decay(self, parameter: Node, decay: f64) {
        here(Location::caller());
        raw::weight_decay(parameter.0, decay);
    }

    /// A line for the run's log.
    pub fn log(self, message: &str) {
        raw::tell(message);
    }
}

/// Asks for every key and says who the plugin is; for `export!`.
pub fn describe<T: Config>(name: &str, version: &str, summary: &str) {
    crate::node::forget_place();
    raw::plugin(name, version, summary);
    T::ask();
}

/// Makes the plan; for `export!`.
///
/// # Errors
/// The method's sentence.
pub fn plan<T: Method>() -> Result<(), String> {
    crate::node::forget_place();
    T::ask().plan(Model, Plan)
}

/// Exports a method. Name, version and summary are those of Cargo.toml.
#[macro_export]
macro_rules! export {
    ($method:ty) => {
        #[cfg(target_arch = "wasm32")]
        mod exported {
            use super::*;

            struct Exported;

            impl $crate::bindings::method::exports::peft::plugin::method::Guest for Exported {
                fn describe() {
                    $crate::guest::carry_panics_out();
                    $crate::method::describe::<$method>(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        env!("CARGO_PKG_DESCRIPTION"),
                    );
                }

                fn plan() -> ::std::result::Result<(), ::std::string::String> {
                    $crate::guest::carry_panics_out();
                    $crate::method::plan::<$method>()
                }
            }

            $crate::bindings::method::export!(Exported with_types_in $crate::bindings::method);
        }
    };
}
