//! What methods declare: graphs, sites of the model, plans.

use host_ir::graph::{Binary, Compare, Reduce, Unary};

use super::peft;
use super::peft::plugin::graph::Node;
use super::peft::plugin::model::Site;
use super::peft::plugin::settings::Selection as WireSelection;
use super::{State, lift, node, node_functions, nodes, selection, sites};

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
