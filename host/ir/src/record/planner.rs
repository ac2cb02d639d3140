//! The functions of the contract's `planner`: what a method decides.

use crate::graph::{Kind, NewParameterId, NodeId, Op, Scope};
use crate::method::{AnyParameter, NewParameter, SitePlan};
use crate::model::{Module, SiteId, SiteKind};
use crate::record::{Answer, Phase, RecordError, Recorder};
use crate::shape::{Dim, Shape};

/// The most elements of all statistics of a controller.
const MOST_STATISTICS: usize = 1024;

impl Recorder {
    fn planning(&self, function: &'static str) -> Answer<()> {
        self.only_in(function, &[Phase::MethodPlan])
    }

    /// `planner.train`.
    pub fn train(&mut self, parameter: u32) -> Answer<()> {
        self.planning("planner.train")?;
        let node = self.node("planner.train", parameter)?;
        match self.base_parameter(node) {
            Some(id) => {
                self.method.trained.insert(id);
                Ok(())
            }
            None => Err(self.wrong(
                "planner.train",
                format!(
                    "planner.train: a parameter of the model is wanted, not the result of {}",
                    self.graph().node(node).op.name()
                ),
            )),
        }
    }

    /// `planner.freeze-head`.
    pub fn freeze_head(&mut self) -> Answer<()> {
        self.planning("planner.freeze-head")?;
        self.method.freeze_head = true;
        Ok(())
    }

    /// `planner.parameter` (trained) and `planner.frozen`.
    pub fn parameter(&mut self, owner: Option<u32>, name: &str, initial: u32, trained: bool) -> Answer<u32> {
        let function = if trained { "planner.parameter" } else { "planner.frozen" };
        self.planning(function)?;
        let owner = owner.map(|site| self.module(function, site)).transpose()?;
        let initial = self.node(function, initial)?;
        let full = match &owner {
            Some((_, module)) => format!("{}.{name}", module.name),
            None => name.to_string(),
        };
        self.check_new_parameter(function, name, &full, initial)?;
        let shape = self.graph().shape(initial).clone();
        let owner = owner.map(|(site, _)| site);
        self.method.parameters.push(NewParameter { name: full, owner, initial, trained });
        let id = NewParameterId(self.method.parameters.len() as u32 - 1);
        let place = self.place.clone();
        let node = self.method.graph.leaf(Op::New(id), shape, Kind::Real, Scope::Plan, place);
        Ok(self.give_node(node))
    }

    fn check_new_parameter(
        &self,
        function: &'static str,
        name: &str,
        full: &str,
        initial: NodeId,
    ) -> Answer<()> {
        let node = self.graph().node(initial);
        let wrong = |why: String| Err(self.wrong(function, format!("{function} \"{full}\": {why}")));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return wrong("the name is empty or has a space in it".into());
        }
        if node.scope != Scope::Plan {
            return wrong("the initial value depends on a sequence".into());
        }
        if node.kind != Kind::Real {
            return wrong("the initial value is of integers".into());
        }
        if node.shape.elements().is_none_or(|elements| elements == 0) {
            return wrong(format!("the initial value has the shape {}", node.shape));
        }
        let taken = self.method.parameters.iter().any(|parameter| parameter.name == full)
            || self.model.as_ref().is_some_and(|model| model.find_parameter(full).is_some());
        if taken {
            return wrong("there is a parameter of this name already".into());
        }
        Ok(())
    }

    /// `planner.replace-input`.
    pub fn replace_input(&mut self, site: u32, value: u32) -> Answer<()> {
        let function = "planner.replace-input";
        let (id, module) = self.site_of(function, site, &[SiteKind::Linear])?;
        let value = self.flows(function, &module, value, module.inputs)?;
        self.say(function, id, &module, "input", |plan| &mut plan.input, value)
    }

    /// `planner.replace-output`.
    pub fn replace_output(&mut self, site: u32, value: u32) -> Answer<()> {
        let function = "planner.replace-output";
        let (id, module) = self.module(function, site)?;
        self.planning(function)?;
        let value = self.flows(function, &module, value, module.outputs)?;
        self.say(function, id, &module, "output", |plan| &mut plan.output, value)
    }

    /// `planner.replace-output-at`.
    pub fn replace_output_at(&mut self, site: u32, value: u32, first: u32, last: u32) -> Answer<()> {
        let function = "planner.replace-output-at";
        let (id, module) = self.module(function, site)?;
        self.planning(function)?;
        let value = self.flows(function, &module, value, module.outputs)?;
        self.say(
            function,
            id,
            &module,
            "output at positions",
            |plan| &mut plan.output_at,
            (value, first, last),
        )
    }

    /// `planner.replace-weight`.
    pub fn replace_weight(&mut self, site: u32, value: u32) -> Answer<()> {
        self.weight_like("planner.replace-weight", site, value, "weight", |plan| &mut plan.weight)
    }

    /// `planner.change-base`.
    pub fn change_base(&mut self, site: u32, value: u32) -> Answer<()> {
        self.weight_like("planner.change-base", site, value, "base weight", |plan| &mut plan.change_base)
    }

    /// `planner.merge-as`.
    pub fn merge_as(&mut self, site: u32, value: u32) -> Answer<()> {
        self.weight_like("planner.merge-as", site, value, "merged weight", |plan| &mut plan.merge_weight)
    }

    fn weight_like(
        &mut self,
        function: &'static str,
        site: u32,
        value: u32,
        what: &str,
        slot: fn(&mut SitePlan) -> &mut Option<NodeId>,
    ) -> Answer<()> {
        let (id, module) = self.site_of(function, site, &[SiteKind::Linear, SiteKind::Embedding])?;
        let wanted = match module.kind {
            SiteKind::Embedding => Shape::fixed(&[module.inputs, module.outputs]),
            _ => Shape::fixed(&[module.outputs, module.inputs]),
        };
        let value = self.planned(function, &module, value, &wanted)?;
        self.say(function, id, &module, what, slot, value)
    }

    /// `planner.merge-bias-as`.
    pub fn merge_bias_as(&mut self, site: u32, value: u32) -> Answer<()> {
        let function = "planner.merge-bias-as";
        let (id, module) = self.site_of(function, site, &[SiteKind::Linear])?;
        let value = self.planned(function, &module, value, &Shape::fixed(&[module.outputs]))?;
        self.say(function, id, &module, "merged bias", |plan| &mut plan.merge_bias, value)
    }

    /// `planner.prompt`.
    pub fn prompt(&mut self, embeddings: u32) -> Answer<()> {
        let function = "planner.prompt";
        self.planning(function)?;
        let node = self.node(function, embeddings)?;
        let model = self.model(function)?;
        let size = model.word_embeddings.map(|id| model.parameter(id).shape[1]);
        let (shape, scope) = (self.graph().shape(node).clone(), self.graph().node(node).scope);
        let fits =
            shape.rank() == 2 && shape.0[1].fixed() == size.map(|size| size as usize) && scope == Scope::Plan;
        if !fits || shape.0[0] == Dim::Fixed(0) {
            let size = size.unwrap_or(0);
            return Err(self.wrong(function, format!("{function}: [count, {size}] is wanted, the same for every sequence, and {shape} was given")));
        }
        if self.method.prompt.replace(node).is_some() {
            return Err(self.wrong(function, format!("{function}: there is a prompt already")));
        }
        Ok(())
    }

    /// `planner.prefix`.
    pub fn prefix(&mut self, site: u32, keys: u32, values: u32) -> Answer<()> {
        let function = "planner.prefix";
        let (id, module) = self.site_of(function, site, &[SiteKind::Attention])?;
        let (keys, values) = (self.node(function, keys)?, self.node(function, values)?);
        for node in [keys, values] {
            let shape = self.graph().shape(node);
            if shape.rank() != 2 || shape.0[1] != Dim::Fixed(module.outputs) {
                return Err(self.wrong(
                    function,
                    format!(
                        "{function} at {}: [count, {}] is wanted and {shape} was given",
                        module.name, module.outputs
                    ),
                ));
            }
        }
        self.say(function, id, &module, "prefix", |plan| &mut plan.prefix, (keys, values))
    }

    /// `planner.add-loss`.
    pub fn add_loss(&mut self, value: u32) -> Answer<()> {
        self.planning("planner.add-loss")?;
        let node = self.node("planner.add-loss", value)?;
        let shape = self.graph().shape(node);
        if shape.rank() > 0 || self.graph().node(node).scope != Scope::Plan {
            return Err(self.wrong(
                "planner.add-loss",
                format!("planner.add-loss: one number over parameters is wanted, and {shape} was given"),
            ));
        }
        self.method.losses.push(node);
        Ok(())
    }

    /// `planner.learning-rate`.
    pub fn learning_rate(&mut self, parameter: u32, factor: f64) -> Answer<()> {
        let function = "planner.learning-rate";
        let id = self.any_parameter(function, parameter)?;
        if !(factor.is_finite() && factor >= 0.0) {
            return Err(
                self.wrong(function, format!("{function}: a factor of {factor}; it must be at least 0"))
            );
        }
        self.method.groups.entry(id).or_default().learning_rate = Some(factor);
        Ok(())
    }

    /// `planner.weight-decay`.
    pub fn weight_decay(&mut self, parameter: u32, decay: f64) -> Answer<()> {
        let function = "planner.weight-decay";
        let id = self.any_parameter(function, parameter)?;
        if !(decay.is_finite() && decay >= 0.0) {
            return Err(
                self.wrong(function, format!("{function}: a decay of {decay}; it must be at least 0"))
            );
        }
        self.method.groups.entry(id).or_default().weight_decay = Some(decay);
        Ok(())
    }

    /// `planner.every`.
    pub fn every(&mut self, steps: u32, statistics: &[u32]) -> Answer<()> {
        let function = "planner.every";
        self.planning(function)?;
        let nodes = statistics.iter().map(|&value| self.node(function, value)).collect::<Answer<Vec<_>>>()?;
        let elements: Option<usize> = nodes.iter().map(|&node| self.graph().shape(node).elements()).sum();
        if steps == 0 || elements.is_none_or(|elements| elements > MOST_STATISTICS) {
            return Err(self.wrong(function, format!("{function}: at least 1 step and at most {MOST_STATISTICS} elements of statistics are wanted")));
        }
        match self.method.controller.replace((steps, nodes)) {
            None => Ok(()),
            Some(_) => Err(self.wrong(function, format!("{function} was called twice"))),
        }
    }

    /// `planner.export-tensor`.
    pub fn export_tensor(&mut self, name: &str, value: u32) -> Answer<()> {
        self.planning("planner.export-tensor")?;
        let node = self.node("planner.export-tensor", value)?;
        self.method.exports.push((name.to_string(), node));
        Ok(())
    }

    fn any_parameter(&self, function: &'static str, parameter: u32) -> Answer<AnyParameter> {
        self.planning(function)?;
        let node = self.node(function, parameter)?;
        match self.graph().node(node).op {
            Op::Base(id) => Ok(AnyParameter::Base(id)),
            Op::New(id) => Ok(AnyParameter::New(id)),
            _ => Err(self.wrong(
                function,
                format!(
                    "{function}: a parameter is wanted, not the result of {}",
                    self.graph().node(node).op.name()
                ),
            )),
        }
    }

    /// A site of one of the kinds at which a function can be called.
    fn site_of(&self, function: &'static str, site: u32, kinds: &[SiteKind]) -> Answer<(SiteId, Module)> {
        self.planning(function)?;
        let (id, module) = self.module(function, site)?;
        if kinds.contains(&module.kind) {
            return Ok((id, module));
        }
        let wanted: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        Err(self.wrong(
            function,
            format!(
                "{function}: {} is a site of kind {}; this can be said at: {}",
                module.name,
                module.kind.name(),
                wanted.join(", ")
            ),
        ))
    }

    /// A value of shape [tokens, size].
    fn flows(&self, function: &'static str, module: &Module, value: u32, size: u32) -> Answer<NodeId> {
        let node = self.node(function, value)?;
        let wanted = Shape(vec![Dim::Tokens, Dim::Fixed(size)]);
        self.shaped(function, module, node, &wanted)
    }

    /// A value over parameters only, of a shape.
    fn planned(&self, function: &'static str, module: &Module, value: u32, wanted: &Shape) -> Answer<NodeId> {
        let node = self.node(function, value)?;
        if self.graph().node(node).scope != Scope::Plan {
            return Err(self.wrong(
                function,
                format!("{function} at {}: the value depends on the sequence", module.name),
            ));
        }
        self.shaped(function, module, node, wanted)
    }

    fn shaped(
        &self,
        function: &'static str,
        module: &Module,
        node: NodeId,
        wanted: &Shape,
    ) -> Answer<NodeId> {
        let shape = self.graph().shape(node);
        let random = self.graph().node(node).random;
        let wrong = |why: String| -> RecordError {
            self.wrong(function, format!("{function} at {}: {why}", module.name))
        };
        if shape != wanted {
            return Err(wrong(format!("{wanted} is wanted and {shape} was given")));
        }
        match random {
            true => Err(wrong("a random leaf may stand only in an initial value".into())),
            false => Ok(node),
        }
    }

    /// Takes down what is said at a site; twice is an error.
    fn say<T>(
        &mut self,
        function: &'static str,
        id: SiteId,
        module: &Module,
        what: &str,
        slot: impl FnOnce(&mut SitePlan) -> &mut Option<T>,
        value: T,
    ) -> Answer<()> {
        let said = slot(self.method.sites.entry(id).or_default()).replace(value).is_some();
        match said {
            false => Ok(()),
            true => Err(self
                .wrong(function, format!("{function}: the {what} of {} is replaced already", module.name))),
        }
    }
}
