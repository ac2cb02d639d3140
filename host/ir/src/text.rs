//! Plans as text, for `host plan`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::graph::{Graph, NodeId, Op};
use crate::method::{AnyParameter, MethodPlan};
use crate::model::{ModelDescription, ParameterId};
use crate::settings::quoted;
use crate::task::{HeadKind, Side, TaskPlan};

/// Expressions deeper than this are written with an ellipsis.
const DEPTH: usize = 12;
const SHALLOW: usize = 4;

/// The whole plan of a cell: what the task reads and computes, what trains,
/// what is added and what is replaced.
pub fn describe(model: &ModelDescription, task: &TaskPlan, method: &MethodPlan) -> String {
    let mut text = String::new();
    let writer = Writer { model, method };
    // Writing to a string cannot fail.
    writer.write(task, &mut text).ok();
    text
}

struct Writer<'a> {
    model: &'a ModelDescription,
    method: &'a MethodPlan,
}

impl Writer<'_> {
    fn write(&self, task: &TaskPlan, out: &mut String) -> std::fmt::Result {
        writeln!(out, "task")?;
        for sequence in &task.sequences {
            match &sequence.words {
                Some((field, shared)) => {
                    write!(out, "  sequence of the words of {field}, in windows that share {shared} words")?;
                }
                None => write!(out, "  sequence of {}", quoted(&sequence.texts))?,
            }
            if let Some(list) = sequence.each.and_then(|place| sequence.texts.get(place)) {
                write!(out, ", one for each of {list}")?;
            }
            if let Some(most) = sequence.at_most {
                write!(out, ", at most {most} tokens")?;
            }
            if let Some((place, side)) = sequence.cut {
                let side = if side == Side::Start { "start" } else { "end" };
                write!(out, ", {} cut at its {side}", sequence.texts[place])?;
            }
            if let Some(stride) = sequence.windows {
                write!(out, ", the rest in windows that share {stride} tokens")?;
            }
            if let Some(target) = &sequence.target {
                write!(out, ", to {}", target.text)?;
                if let Some(most) = target.at_most {
                    write!(out, " of at most {most} tokens")?;
                }
            }
            if let Some(share) = sequence.mask_probability {
                write!(out, ", {share} of the tokens masked")?;
            }
            writeln!(out)?;
        }
        match task.head {
            Some(HeadKind::Classification { classes }) => {
                writeln!(out, "  head: classification, {classes} classes")?
            }
            Some(HeadKind::TokenClassification { classes }) => {
                writeln!(out, "  head: token classification, {classes} classes")?
            }
            Some(HeadKind::MultipleChoice) => {
                let choices = task.sequences.iter().find_map(|sequence| sequence.choices).unwrap_or(0);
                writeln!(out, "  head: multiple choice among {choices}")?
            }
            Some(HeadKind::MaskedLanguageModel) => writeln!(out, "  head: masked language model")?,
            Some(HeadKind::SequenceToSequence) => writeln!(out, "  head: sequence to sequence")?,
            None => {}
        }
        for parameter in &task.parameters {
            let shape = task.graph.shape(parameter.initial);
            writeln!(out, "  head parameter {} {shape}", parameter.name)?;
        }
        // The expressions of a head of its own are long.
        let depth = if task.parameters.is_empty() { DEPTH } else { SHALLOW };
        for &loss in &task.losses {
            writeln!(out, "  loss: mean of {}", self.expression(&task.graph, loss, depth))?;
        }
        if let Some(generation) = &task.generation {
            let settings = &generation.settings;
            let (name, most, beams) = (&generation.name, settings.max_new_tokens, settings.num_beams);
            writeln!(out, "  generated {name}: at most {most} tokens, {beams} beams")?;
        }
        for (name, node) in &task.outputs {
            writeln!(out, "  output {name}: {}", self.expression(&task.graph, *node, depth))?;
        }
        self.write_trained(out)?;
        self.write_added(out)?;
        self.write_sites(out)?;
        if let Some(prompt) = self.method.prompt {
            writeln!(out, "prompt of {} virtual tokens: {}", self.method.virtual_tokens(), self.own(prompt))?;
        }
        for &loss in &self.method.losses {
            writeln!(out, "added to the loss: {}", self.own(loss))?;
        }
        for (parameter, group) in &self.method.groups {
            let name = self.name(*parameter);
            if let Some(factor) = group.learning_rate {
                writeln!(out, "learning rate of {name}: times {factor}")?;
            }
            if let Some(decay) = group.weight_decay {
                writeln!(out, "weight decay of {name}: {decay}")?;
            }
        }
        Ok(())
    }

    fn write_trained(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "trained parameters of the model")?;
        // Names that differ in the layer only are written once.
        let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut order = Vec::new();
        for (place, parameter) in self.model.parameters.iter().enumerate() {
            if self.method.trains(self.model, ParameterId(place as u32)) {
                let key = (without_layer(&parameter.name), format!("{:?}", parameter.shape));
                let count = groups.entry(key.clone()).or_default();
                if *count == 0 {
                    order.push(key.clone());
                }
                *count += 1;
            }
        }
        for key in order {
            match groups[&key] {
                1 => writeln!(out, "  {} {}", key.0, key.1)?,
                count => writeln!(out, "  {} {}, {count} of them", key.0, key.1)?,
            }
        }
        Ok(())
    }

    fn write_added(&self, out: &mut String) -> std::fmt::Result {
        if self.method.parameters.is_empty() {
            return Ok(());
        }
        writeln!(out, "new parameters")?;
        for parameter in &self.method.parameters {
            let shape = self.method.graph.shape(parameter.initial);
            let frozen = if parameter.trained { "" } else { ", frozen" };
            writeln!(out, "  {} {shape}{frozen} = {}", parameter.name, self.own(parameter.initial))?;
        }
        Ok(())
    }

    fn write_sites(&self, out: &mut String) -> std::fmt::Result {
        for (&site, plan) in &self.method.sites {
            writeln!(out, "{}", self.model.module(site).name)?;
            let said = [
                ("input", plan.input),
                ("weight", plan.weight),
                ("output", plan.output),
                ("base weight", plan.change_base),
                ("merged weight", plan.merge_weight),
                ("merged bias", plan.merge_bias),
            ];
            for (what, node) in said {
                if let Some(node) = node {
                    writeln!(out, "  {what} = {}", self.own(node))?;
                }
            }
            if let Some((node, first, last)) = plan.output_at {
                writeln!(
                    out,
                    "  output of the first {first} and the last {last} tokens = {}",
                    self.own(node)
                )?;
            }
            if let Some((keys, values)) = plan.prefix {
                writeln!(out, "  prefix: keys {}, values {}", self.own(keys), self.own(values))?;
            }
        }
        Ok(())
    }

    fn name(&self, parameter: AnyParameter) -> &str {
        match parameter {
            AnyParameter::Base(id) => &self.model.parameter(id).name,
            AnyParameter::New(id) => &self.method.parameter(id).name,
        }
    }

    fn own(&self, node: NodeId) -> String {
        self.expression(&self.method.graph, node, DEPTH)
    }

    fn expression(&self, graph: &Graph, id: NodeId, depth: usize) -> String {
        let node = graph.node(id);
        if depth == 0 {
            return "…".into();
        }
        let inputs = || -> Vec<String> {
            node.inputs.iter().map(|&input| self.expression(graph, input, depth - 1)).collect()
        };
        let call = |extra: String| {
            let mut arguments = inputs();
            if !extra.is_empty() {
                arguments.push(extra);
            }
            format!("{}({})", node.op.name(), arguments.join(", "))
        };
        match &node.op {
            Op::Base(id) => self.model.parameter(*id).name.clone(),
            Op::New(id) => self.method.parameter(*id).name.clone(),
            Op::SiteInput(_) => "input".into(),
            Op::SiteOutput(_) => "output".into(),
            Op::Head(place) => format!("head parameter {place}"),
            Op::Label(field) => format!("label \"{field}\""),
            Op::WordNumbers(field) => format!("word-numbers \"{field}\""),
            Op::SpanNumbers { field, width } => format!("span-numbers \"{field}\" of {width} words"),
            Op::Shift { by } => call(by.to_string()),
            Op::Quotient(divisor) | Op::Remainder(divisor) => call(divisor.to_string()),
            Op::Largest { thousandths } => call(format!("{thousandths}‰")),
            Op::ArgMax { axis } | Op::Positions { axis } => call(format!("axis {axis}")),
            Op::Full(value) => match node.shape.rank() {
                0 => value.to_string(),
                _ => format!("full({}, {value})", node.shape),
            },
            Op::Uniform { low, high, .. } => format!("uniform({}, {low:.6}, {high:.6})", node.shape),
            Op::Normal { mean, deviation, .. } => format!("normal({}, {mean}, {deviation})", node.shape),
            Op::Draw { bound, .. } => format!("draw({}, below {bound})", node.shape),
            Op::Constant(_) | Op::Integers(_) => format!("{}({})", node.op.name(), node.shape),
            Op::Affine { factor, offset } => match (*factor, *offset) {
                (factor, 0.0) => format!("{} * {factor}", inputs().concat()),
                (1.0, offset) => format!("({} + {offset})", inputs().concat()),
                (factor, offset) => format!("({} * {factor} + {offset})", inputs().concat()),
            },
            Op::Binary(_) => {
                let sign = match node.op.name() {
                    "add" => "+",
                    "subtract" => "-",
                    "multiply" => "*",
                    "divide" => "/",
                    _ => return call(String::new()),
                };
                format!("({})", inputs().join(&format!(" {sign} ")))
            }
            Op::Power(exponent) => call(exponent.to_string()),
            Op::Dropout(probability) => call(probability.to_string()),
            Op::Permute(axes) if *axes == [1, 0] => format!("{}ᵀ", inputs().concat()),
            Op::Permute(axes) => call(format!("{axes:?}")),
            Op::Reshape => call(node.shape.to_string()),
            Op::Slice { axis, start, length } => call(format!("axis {axis}, {start}..{}", start + length)),
            Op::Reduce { axes, .. } => call(format!("axes {axes:?}")),
            _ => call(String::new()),
        }
    }
}

/// A name with `*` for its first number.
fn without_layer(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.iter().position(|part| part.parse::<u32>().is_ok()) {
        Some(place) => [&parts[..place], &["*"], &parts[place + 1..]].concat().join("."),
        None => name.into(),
    }
}
