//! What tasks declare: files, fields, examples, sequences, heads, losses.

use host_ir::task::{FieldType, SplitUse};

use super::peft;
use super::peft::plugin::graph::Node;
use super::{State, lift, node, node_functions};

impl peft::plugin::source::Host for State {
    fn train(&mut self, split: String) -> wasmtime::Result<()> {
        lift(self.recorder.split(&split, SplitUse::Train))
    }

    fn evaluate(&mut self, split: String) -> wasmtime::Result<()> {
        lift(self.recorder.split(&split, SplitUse::Evaluate))
    }

    fn optional(&mut self, split: String) -> wasmtime::Result<()> {
        lift(self.recorder.split(&split, SplitUse::Optional))
    }

    fn file(&mut self, split: String, pattern: String, container: String) -> wasmtime::Result<()> {
        lift(self.recorder.file(&split, &pattern, &container))
    }

    fn sample(&mut self, name: String, content: String) -> wasmtime::Result<()> {
        lift(self.recorder.sample(&name, &content))
    }
}

impl peft::plugin::field::Host for State {
    fn text(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.field(&name, FieldType::Text))
    }

    fn texts(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.field(&name, FieldType::Texts))
    }

    fn label(&mut self, name: String, names: Vec<String>) -> wasmtime::Result<()> {
        lift(self.recorder.field(&name, FieldType::Label(names)))
    }

    fn gold(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.gold(&name))
    }

    fn id(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.id_field(&name))
    }

    fn names(&mut self, name: String) -> wasmtime::Result<Vec<String>> {
        lift(self.recorder.names(&name))
    }
}

impl peft::plugin::input::Host for State {
    fn split(&mut self) -> wasmtime::Result<String> {
        lift(self.recorder.input_split())
    }

    fn container(&mut self) -> wasmtime::Result<String> {
        lift(self.recorder.input_container())
    }

    fn line(&mut self, record: u32) -> wasmtime::Result<String> {
        lift(self.recorder.input_line(record))
    }

    fn text(&mut self, record: u32, path: String) -> wasmtime::Result<Result<String, String>> {
        lift(self.recorder.input_text(record, &path))
    }

    fn whole(&mut self, record: u32, path: String) -> wasmtime::Result<Result<i64, String>> {
        lift(self.recorder.input_whole(record, &path))
    }

    fn flag(&mut self, record: u32, path: String) -> wasmtime::Result<Result<bool, String>> {
        lift(self.recorder.input_flag(record, &path))
    }

    fn has(&mut self, record: u32, path: String) -> wasmtime::Result<bool> {
        lift(self.recorder.input_has(record, &path))
    }

    fn length(&mut self, record: u32, path: String) -> wasmtime::Result<Result<u32, String>> {
        lift(self.recorder.input_length(record, &path))
    }

    fn skip(&mut self, record: u32, reason: String) -> wasmtime::Result<()> {
        lift(self.recorder.skip(record, &reason))
    }

    fn reject(&mut self, record: u32, sentence: String) -> wasmtime::Result<()> {
        lift(self.recorder.reject(record, &sentence))
    }
}

impl peft::plugin::example::Host for State {
    fn add(&mut self, record: u32) -> wasmtime::Result<u32> {
        lift(self.recorder.add_example(record))
    }

    fn put_text(&mut self, example: u32, field: String, text: String) -> wasmtime::Result<()> {
        lift(self.recorder.put_text(example, &field, &text))
    }

    fn put_texts(&mut self, example: u32, field: String, texts: Vec<String>) -> wasmtime::Result<()> {
        lift(self.recorder.put_texts(example, &field, texts))
    }

    fn put_rest(&mut self, example: u32, field: String, start: u32) -> wasmtime::Result<()> {
        lift(self.recorder.put_rest(example, &field, start))
    }

    fn put_label(&mut self, example: u32, field: String, label: i64) -> wasmtime::Result<()> {
        lift(self.recorder.put_label(example, &field, label))
    }

    fn put_label_name(&mut self, example: u32, field: String, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.put_label_name(example, &field, &name))
    }
}

impl peft::plugin::sequence::Host for State {
    fn new(&mut self, name: String) -> wasmtime::Result<u32> {
        lift(self.recorder.sequence(&name))
    }

    fn text(&mut self, sequence: u32, field: String) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_text(sequence, &field))
    }

    fn each(&mut self, sequence: u32, field: String) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_each(sequence, &field))
    }

    fn at_most(&mut self, sequence: u32, tokens: u32) -> wasmtime::Result<()> {
        lift(self.recorder.at_most(sequence, tokens))
    }

    fn cut(&mut self, sequence: u32, field: String, side: String) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_cut(sequence, &field, &side))
    }

    fn windows(&mut self, sequence: u32, stride: u32) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_windows(sequence, stride))
    }

    fn mask_tokens(&mut self, sequence: u32, probability: f64) -> wasmtime::Result<()> {
        lift(self.recorder.mask_tokens(sequence, probability))
    }

    fn shift_positions(&mut self, sequence: u32, most: u32) -> wasmtime::Result<()> {
        lift(self.recorder.shift_positions(sequence, most))
    }

    fn target(&mut self, sequence: u32, field: String, tokens: u32) -> wasmtime::Result<()> {
        lift(self.recorder.target(sequence, &field, tokens))
    }

    node_functions! {
        hidden(sequence: u32) = |r| r.hidden(sequence);
    }
}

impl peft::plugin::head::Host for State {
    node_functions! {
        classification(sequence: u32, classes: u32) = |r| r.classification(sequence, classes);
        choice(sequence: u32, choices: u32) = |r| r.choice_head(sequence, choices);
        masked_language_model(sequence: u32) = |r| r.masked_language_model(sequence);
        masked_tokens(sequence: u32) = |r| r.masked_tokens(sequence);
        sequence_to_sequence(sequence: u32) = |r| r.sequence_to_sequence(sequence);
        target_tokens(sequence: u32) = |r| r.target_tokens(sequence);
        parameter(name: String, initial: Node) = |r| r.head_parameter(&name, initial.id);
    }
}

/// Functions that set one thing.
macro_rules! setters {
    ($($name:ident($argument:ident: $kind:ty);)*) => {
        $(fn $name(&mut self, $argument: $kind) -> wasmtime::Result<()> {
            lift(self.recorder.$name($argument))
        })*
    };
}

impl peft::plugin::generate::Host for State {
    fn declare(&mut self, sequence: u32, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.declare_generated(sequence, &name))
    }

    fn early_stopping(&mut self, rule: String) -> wasmtime::Result<()> {
        lift(self.recorder.early_stopping(&rule))
    }

    setters! {
        max_new_tokens(tokens: u32);
        min_new_tokens(tokens: u32);
        num_beams(beams: u32);
        length_penalty(penalty: f64);
        no_repeat_ngram_size(size: u32);
        forced_bos_token(id: u32);
        forced_eos_token(id: u32);
    }
}

impl peft::plugin::objective::Host for State {
    node_functions! {
        label(field: String) = |r| r.objective_label(&field);
    }

    fn mean(&mut self, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.objective_mean(value.id))
    }
}
