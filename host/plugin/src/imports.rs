//! The functions of the contract, handed on to the recorder.

use host_ir::graph::{Binary, Compare, Reduce, Unary};
use host_ir::record::{Answer, NamesOrPattern, NumberedSpan, Recorder};
use host_ir::settings::{Setting, SettingType};
use host_ir::task::{FieldType, PredictionType, PredictionValue, SplitUse};

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

impl peft::plugin::graph::Host for State {
    fn shape(&mut self, value: Node) -> wasmtime::Result<Vec<u32>> {
        lift(self.recorder.shape(value.id))
    }

    node_functions! {
        scalar(value: f64) = |r| r.scalar(value);
        constant(shape: Vec<u32>, values: Vec<f64>) = |r| r.constant(&shape, &values);
        integers(shape: Vec<u32>, values: Vec<i32>) = |r| r.integers(&shape, &values);
        full(shape: Vec<u32>, value: f64) = |r| r.full(&shape, value);
        eye(size: u32) = |r| r.eye(size);
        uniform(shape: Vec<u32>, low: f64, high: f64, key: Option<String>) = |r| r.uniform(&shape, low, high, key);
        normal(shape: Vec<u32>, mean: f64, deviation: f64, key: Option<String>) = |r| r.normal(&shape, mean, deviation, key);
        draw(count: u32, bound: u32, key: Option<String>) = |r| r.draw(count, bound, key);
        add(a: Node, b: Node) = |r| r.binary(Binary::Add, a.id, b.id);
        subtract(a: Node, b: Node) = |r| r.binary(Binary::Subtract, a.id, b.id);
        multiply(a: Node, b: Node) = |r| r.binary(Binary::Multiply, a.id, b.id);
        divide(a: Node, b: Node) = |r| r.binary(Binary::Divide, a.id, b.id);
        maximum(a: Node, b: Node) = |r| r.binary(Binary::Maximum, a.id, b.id);
        minimum(a: Node, b: Node) = |r| r.binary(Binary::Minimum, a.id, b.id);
        affine(value: Node, factor: f64, offset: f64) = |r| r.affine(value.id, factor, offset);
        power(value: Node, exponent: f64) = |r| r.power(value.id, exponent);
        exp(value: Node) = |r| r.unary(Unary::Exp, value.id);
        log(value: Node) = |r| r.unary(Unary::Log, value.id);
        sqrt(value: Node) = |r| r.unary(Unary::Sqrt, value.id);
        abs(value: Node) = |r| r.unary(Unary::Abs, value.id);
        tanh(value: Node) = |r| r.unary(Unary::Tanh, value.id);
        sigmoid(value: Node) = |r| r.unary(Unary::Sigmoid, value.id);
        relu(value: Node) = |r| r.unary(Unary::Relu, value.id);
        gelu(value: Node) = |r| r.unary(Unary::Gelu, value.id);
        silu(value: Node) = |r| r.unary(Unary::Silu, value.id);
        permute(value: Node, axes: Vec<u32>) = |r| r.permute(value.id, &axes);
        transpose(value: Node) = |r| r.transpose(value.id);
        reshape(value: Node, shape: Vec<u32>) = |r| r.reshape(value.id, &shape);
        slice(value: Node, axis: i32, start: u32, length: u32) = |r| r.slice(value.id, axis, start, length);
        concat(values: Vec<Node>, axis: i32) = |r| r.concat(&values.iter().map(|node| node.id).collect::<Vec<_>>(), axis);
        matmul(a: Node, b: Node) = |r| r.matmul(a.id, b.id);
        sum(value: Node, axes: Vec<i32>, keep: bool) = |r| r.reduce(Reduce::Sum, value.id, &axes, keep);
        mean(value: Node, axes: Vec<i32>, keep: bool) = |r| r.reduce(Reduce::Mean, value.id, &axes, keep);
        norm(value: Node, axes: Vec<i32>, keep: bool) = |r| r.reduce(Reduce::Norm, value.id, &axes, keep);
        deviation(value: Node, axes: Vec<i32>, keep: bool) = |r| r.reduce(Reduce::Deviation, value.id, &axes, keep);
        softmax(value: Node, axis: i32) = |r| r.softmax(value.id, axis);
        log_softmax(value: Node, axis: i32) = |r| r.log_softmax(value.id, axis);
        log_sum_exp(value: Node, axis: i32, keep: bool) = |r| r.reduce(Reduce::LogSumExp, value.id, &[axis], keep);
        largest_over(value: Node, axis: i32, keep: bool) = |r| r.reduce(Reduce::Maximum, value.id, &[axis], keep);
        positions(value: Node, axis: i32) = |r| r.positions(value.id, axis);
        quotient(value: Node, divisor: u32) = |r| r.quotient(value.id, divisor);
        remainder(value: Node, divisor: u32) = |r| r.remainder(value.id, divisor);
        equal(a: Node, b: Node) = |r| r.compare(Compare::Equal, a.id, b.id);
        less(a: Node, b: Node) = |r| r.compare(Compare::Less, a.id, b.id);
        shift(value: Node, by: i32) = |r| r.shift(value.id, by);
        largest(value: Node, thousandths: u32) = |r| r.largest(value.id, thousandths);
        arg_max(value: Node, axis: i32) = |r| r.arg_max(value.id, axis);
        elements(value: Node, places: Node) = |r| r.elements(value.id, places.id);
        rows(table: Node, indices: Node) = |r| r.rows(table.id, indices.id);
        cross_entropy(logits: Node, labels: Node) = |r| r.cross_entropy(logits.id, labels.id);
        detach(value: Node) = |r| r.detach(value.id);
        dropout(value: Node, probability: f64) = |r| r.dropout(value.id, probability);
        training(training: Node, evaluation: Node) = |r| r.training(training.id, evaluation.id);
    }
}

impl peft::plugin::model::Host for State {
    fn architecture(&mut self) -> wasmtime::Result<String> {
        lift(self.recorder.architecture())
    }

    fn fact(&mut self, key: String) -> wasmtime::Result<Option<u64>> {
        lift(self.recorder.fact(&key))
    }

    fn sites(&mut self, kind: String) -> wasmtime::Result<Vec<Site>> {
        sites(self.recorder.sites(&kind))
    }

    fn select(
        &mut self,
        kind: String,
        targets: WireSelection,
        exclude: WireSelection,
        layers: Vec<u32>,
        layers_patterns: Vec<String>,
    ) -> wasmtime::Result<Vec<Site>> {
        sites(self.recorder.select(
            &kind,
            &selection(targets),
            &selection(exclude),
            &layers,
            &layers_patterns,
        ))
    }

    fn lookup(&mut self, site: Site, keys: Vec<String>) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.lookup(site.id, &keys))
    }

    fn name(&mut self, site: Site) -> wasmtime::Result<String> {
        lift(self.recorder.site_name(site.id))
    }

    fn layer(&mut self, site: Site) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.site_layer(site.id))
    }

    fn inputs(&mut self, site: Site) -> wasmtime::Result<u32> {
        lift(self.recorder.site_inputs(site.id))
    }

    fn outputs(&mut self, site: Site) -> wasmtime::Result<u32> {
        lift(self.recorder.site_outputs(site.id))
    }

    node_functions! {
        input(site: Site) = |r| r.site_input(site.id);
        output(site: Site) = |r| r.site_output(site.id);
        weight(site: Site) = |r| r.site_weight(site.id);
        word_embeddings() = |r| r.word_embeddings();
    }

    fn bias(&mut self, site: Site) -> wasmtime::Result<Option<Node>> {
        Ok(lift(self.recorder.site_bias(site.id))?.map(|id| Node { id }))
    }

    fn parameters(&mut self, role: String) -> wasmtime::Result<Vec<Node>> {
        nodes(self.recorder.parameters(&role))
    }

    fn parameters_matching(&mut self, pattern: String) -> wasmtime::Result<Vec<Node>> {
        nodes(self.recorder.parameters_matching(&pattern))
    }

    fn parameter_name(&mut self, parameter: Node) -> wasmtime::Result<String> {
        lift(self.recorder.parameter_name(parameter.id))
    }

    fn tokenize(&mut self, text: String) -> wasmtime::Result<Vec<u32>> {
        lift(self.recorder.tokenize(&text))
    }
}

impl peft::plugin::planner::Host for State {
    node_functions! {
        parameter(owner: Option<Site>, name: String, initial: Node) = |r| r.parameter(owner.map(|site| site.id), &name, initial.id, true);
        frozen(owner: Option<Site>, name: String, initial: Node) = |r| r.parameter(owner.map(|site| site.id), &name, initial.id, false);
    }

    fn train(&mut self, parameter: Node) -> wasmtime::Result<()> {
        lift(self.recorder.train(parameter.id))
    }

    fn freeze_head(&mut self) -> wasmtime::Result<()> {
        lift(self.recorder.freeze_head())
    }

    fn replace_input(&mut self, site: Site, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.replace_input(site.id, value.id))
    }

    fn replace_output(&mut self, site: Site, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.replace_output(site.id, value.id))
    }

    fn replace_output_at(&mut self, site: Site, value: Node, first: u32, last: u32) -> wasmtime::Result<()> {
        lift(self.recorder.replace_output_at(site.id, value.id, first, last))
    }

    fn replace_weight(&mut self, site: Site, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.replace_weight(site.id, value.id))
    }

    fn change_base(&mut self, site: Site, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.change_base(site.id, value.id))
    }

    fn merge_as(&mut self, site: Site, weight: Node) -> wasmtime::Result<()> {
        lift(self.recorder.merge_as(site.id, weight.id))
    }

    fn merge_bias_as(&mut self, site: Site, bias: Node) -> wasmtime::Result<()> {
        lift(self.recorder.merge_bias_as(site.id, bias.id))
    }

    fn prompt(&mut self, embeddings: Node) -> wasmtime::Result<()> {
        lift(self.recorder.prompt(embeddings.id))
    }

    fn prefix(&mut self, site: Site, keys: Node, values: Node) -> wasmtime::Result<()> {
        lift(self.recorder.prefix(site.id, keys.id, values.id))
    }

    fn add_loss(&mut self, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.add_loss(value.id))
    }

    fn learning_rate(&mut self, parameter: Node, factor: f64) -> wasmtime::Result<()> {
        lift(self.recorder.learning_rate(parameter.id, factor))
    }

    fn weight_decay(&mut self, parameter: Node, decay: f64) -> wasmtime::Result<()> {
        lift(self.recorder.weight_decay(parameter.id, decay))
    }

    fn every(&mut self, steps: u32, statistics: Vec<Node>) -> wasmtime::Result<()> {
        let statistics: Vec<u32> = statistics.iter().map(|node| node.id).collect();
        lift(self.recorder.every(steps, &statistics))
    }

    fn export_tensor(&mut self, name: String, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.export_tensor(&name, value.id))
    }
}

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

/// Spans as they go over the wire.
type WireSpans = Vec<(u32, u32, u32)>;

fn spans(wire: WireSpans) -> Vec<NumberedSpan> {
    wire.into_iter().map(|(first, last, number)| [first, last, number]).collect()
}

fn wire_spans(answer: Answer<Option<Vec<NumberedSpan>>>) -> wasmtime::Result<Option<WireSpans>> {
    let wire = |spans: Vec<NumberedSpan>| spans.into_iter().map(|[a, b, c]| (a, b, c)).collect();
    Ok(lift(answer)?.map(wire))
}

impl peft::plugin::words::Host for State {
    fn field(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.field(&name, FieldType::Words))
    }

    fn numbers(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.field_over_words(&name, &of, FieldType::WordNumbers(of.clone())))
    }

    fn spans(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.field_over_words(&name, &of, FieldType::Spans(of.clone())))
    }

    fn predicted_spans(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.predicted_spans(&name, &of))
    }

    fn put(&mut self, example: u32, field: String, words: Vec<String>) -> wasmtime::Result<()> {
        lift(self.recorder.put_words(example, &field, words))
    }

    fn put_numbers(&mut self, example: u32, field: String, numbers: Vec<u32>) -> wasmtime::Result<()> {
        lift(self.recorder.put_word_numbers(example, &field, &numbers))
    }

    fn put_spans(&mut self, example: u32, field: String, wire: WireSpans) -> wasmtime::Result<()> {
        lift(self.recorder.put_spans(example, &field, spans(wire)))
    }

    fn read(&mut self, sequence: u32, field: String, shared: u32) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_words(sequence, &field, shared))
    }

    node_functions! {
        states(sequence: u32) = |r| r.word_states(sequence);
        numbers_of(field: String) = |r| r.word_numbers(&field);
        spans_of(field: String, width: u32) = |r| r.span_numbers(&field, width);
    }

    fn get(&mut self, example: u32, field: String) -> wasmtime::Result<Vec<String>> {
        lift(self.recorder.group_words(example, &field))
    }

    fn get_spans(&mut self, example: u32, field: String) -> wasmtime::Result<Option<WireSpans>> {
        wire_spans(self.recorder.group_spans(example, &field))
    }

    fn set_predicted(&mut self, example: u32, name: String, wire: WireSpans) -> wasmtime::Result<()> {
        lift(self.recorder.set_spans(example, &name, spans(wire)))
    }

    fn get_predicted(&mut self, example: u32, name: String) -> wasmtime::Result<Option<WireSpans>> {
        wire_spans(self.recorder.get_spans(example, &name))
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

impl peft::plugin::output::Host for State {
    fn declare(&mut self, name: String, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.declare_output(&name, value.id))
    }

    fn reals(&mut self, example: u32, name: String) -> wasmtime::Result<Vec<f64>> {
        lift(self.recorder.output_reals(example, &name))
    }

    fn text(&mut self, example: u32, name: String) -> wasmtime::Result<String> {
        lift(self.recorder.output_text(example, &name))
    }
}

impl peft::plugin::group::Host for State {
    fn count(&mut self, split: String) -> wasmtime::Result<u64> {
        lift(self.recorder.count(&split))
    }

    fn size(&mut self, group: u32) -> wasmtime::Result<u32> {
        lift(self.recorder.group_size(group))
    }

    fn example(&mut self, group: u32, place: u32) -> wasmtime::Result<u32> {
        lift(self.recorder.group_example(group, place))
    }

    fn text(&mut self, example: u32, field: String) -> wasmtime::Result<Result<String, String>> {
        lift(self.recorder.group_text(example, &field))
    }

    fn texts(&mut self, example: u32, field: String) -> wasmtime::Result<Result<Vec<String>, String>> {
        lift(self.recorder.group_texts(example, &field))
    }

    fn label(&mut self, example: u32, field: String) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.group_label(example, &field))
    }
}

impl peft::plugin::prediction::Host for State {
    fn label(&mut self, name: String, field: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Label(field)))
    }

    fn real(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Real))
    }

    fn file(&mut self, name: String, container: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file(&name, &container))
    }

    fn file_field(&mut self, file: String, key: String, field: String, form: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file_column(&file, &key, (false, &field), &form))
    }

    fn file_column(
        &mut self,
        file: String,
        key: String,
        prediction: String,
        form: String,
    ) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file_column(&file, &key, (true, &prediction), &form))
    }

    fn text_file(&mut self, name: String, prediction: String) -> wasmtime::Result<()> {
        lift(self.recorder.text_file(&name, &prediction))
    }

    fn set_label(&mut self, example: u32, name: String, label: u32) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Label(label)))
    }

    fn text(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Text))
    }

    fn set_text(&mut self, example: u32, name: String, value: String) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Text(value)))
    }

    fn get_text(&mut self, example: u32, name: String) -> wasmtime::Result<Option<String>> {
        lift(self.recorder.prediction_text(example, &name))
    }

    fn set_real(&mut self, example: u32, name: String, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Real(value)))
    }

    fn get_label(&mut self, example: u32, name: String) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.prediction_label(example, &name))
    }

    fn get_real(&mut self, example: u32, name: String) -> wasmtime::Result<Option<f64>> {
        lift(self.recorder.prediction_real(example, &name))
    }
}

impl peft::plugin::statistic::Host for State {
    fn sum(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.sum(&name))
    }

    fn add(&mut self, group: u32, name: String, key: u64, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.add_statistic(group, &name, key, value))
    }

    fn sum_of(&mut self, sample: u32, name: String, key: u64) -> wasmtime::Result<f64> {
        lift(self.recorder.sum_of(sample, &name, key))
    }
}

impl peft::plugin::metric::Host for State {
    fn higher_is_better(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.metric(&name, true))
    }

    fn lower_is_better(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.metric(&name, false))
    }

    fn best(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.best_metric(&name))
    }

    fn set(&mut self, sample: u32, name: String, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.set_metric(sample, &name, value))
    }
}
