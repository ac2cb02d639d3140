//! What a method says at a site, compiled into the program there.

use host_ir::graph::{Binary, NodeId, Op};
use host_ir::method::{AnyParameter, SitePlan};
use host_ir::model::{ModelDescription, ParameterId, SiteId, SiteKind};

use crate::program::build::{Builder, CompileError, Pending};
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, ValueId};

/// An output hook of the form y + scale * (dropout(x) a^T) b^T, which one
/// instruction computes without a matrix of the output's size.
struct LowRank {
    a: NodeId,
    b: NodeId,
    scale: f64,
    dropout: f64,
}

/// The site of a module with a name of transformers.
fn find_site(model: &ModelDescription, name: &str) -> Option<SiteId> {
    model.modules.iter().position(|module| module.name == name).map(|place| SiteId(place as u32))
}

impl Builder<'_> {
    /// The site of a module with a name of transformers.
    pub fn site(&self, name: &str) -> Result<SiteId, CompileError> {
        find_site(self.model, name)
            .ok_or_else(|| CompileError::Wrong(format!("the model has no module {name}")))
    }

    /// Leaves of the task's plan of one kind.
    pub fn task_leaves(&self, wanted: impl Fn(&Op) -> bool) -> Vec<NodeId> {
        let nodes = self.task.graph.nodes.iter().enumerate();
        nodes.filter(|(_, node)| wanted(&node.op)).map(|(place, _)| NodeId(place as u32)).collect()
    }

    /// Refuses what a method says and this engine cannot run yet.
    ///
    /// # Errors
    /// The first such hook, with its site and the plugin's place.
    pub fn check_hooks(&self) -> Result<(), CompileError> {
        for (&site, plan) in &self.method.sites {
            let kind = self.model.module(site).kind;
            let refused = |what: &str, node: NodeId| {
                let what = format!("{what} at {}, a site of kind {},", self.site_name(site), kind.name());
                Err(self.unsupported(what, false, node))
            };
            if let Some((node, _, _)) = plan.output_at {
                return refused("replacing the output at chosen positions", node);
            }
            if let Some((node, _)) = plan.prefix {
                return refused("a prefix", node);
            }
            if let (SiteKind::Embedding, Some(node)) = (kind, plan.output.or(plan.weight)) {
                return refused("replacing output or weight", node);
            }
        }
        if let Some((name, node)) = self.method.exports.first() {
            return Err(self.unsupported(
                format!("the further tensor {name} of an exported adapter"),
                false,
                *node,
            ));
        }
        match &self.method.controller {
            Some(_) => Err(CompileError::Unsupported { what: "a controller".into(), place: None }),
            None => Ok(()),
        }
    }

    fn leaf_of(&self, op: &Op) -> Option<NodeId> {
        let place = self.method.graph.nodes.iter().position(|node| node.op == *op)?;
        Some(NodeId(place as u32))
    }

    fn bind(&mut self, op: Op, value: ValueId) {
        if let Some(node) = self.leaf_of(&op) {
            self.remember(false, node, value);
        }
    }

    fn plan_of(&self, site: SiteId) -> Option<SitePlan> {
        self.method.sites.get(&site).cloned()
    }

    /// A linear layer with what the method says there.
    pub fn linear(&mut self, site: SiteId, x: ValueId) -> Result<Pending, CompileError> {
        self.bind(Op::SiteInput(site), x);
        let plan = self.plan_of(site).unwrap_or_default();
        self.check_rows(site, &plan, x)?;
        let x = plan.input.map_or(Ok(x), |node| self.expression(false, node))?;
        let module = self.model.module(site);
        let weight = match (plan.weight, module.weight) {
            (Some(node), _) => self.expression(false, node)?,
            (None, Some(id)) => self.parameter(AnyParameter::Base(id)),
            (None, None) => return Err(CompileError::Wrong(format!("{} has no weight", module.name))),
        };
        let bias = module.bias.map(|id| self.parameter(AnyParameter::Base(id)));
        let pending = self.product(x, weight, bias);
        match plan.output.and_then(|node| self.low_rank(site, node)) {
            Some(low_rank) => {
                self.add_low_rank(&low_rank, x, pending.y, 0)?;
                Ok(pending)
            }
            None => self.finish_output(site, plan.output, pending),
        }
    }

    /// Refuses expressions over what a head's module reads, one row of each sequence: they
    /// are over tokens. What is fused and replaced weights are not.
    fn check_rows(&self, site: SiteId, plan: &SitePlan, x: ValueId) -> Result<(), CompileError> {
        let low_rank =
            plan.input.is_none() && plan.output.is_some_and(|node| self.low_rank(site, node).is_some());
        if self.extents(x).first() != Some(&Extent::Sequences) || low_rank {
            return Ok(());
        }
        let read = [Op::SiteInput(site), Op::SiteOutput(site)];
        match plan.input.or(plan.output).or_else(|| read.iter().find_map(|op| self.leaf_of(op))) {
            Some(node) => Err(self.unsupported(
                format!(
                    "an expression over what goes through {}, which reads one token of each sequence,",
                    self.site_name(site)
                ),
                false,
                node,
            )),
            None => Ok(()),
        }
    }

    /// Binds the output where somebody reads it, and replaces it.
    fn finish_output(
        &mut self,
        site: SiteId,
        replaced: Option<NodeId>,
        pending: Pending,
    ) -> Result<Pending, CompileError> {
        if replaced.is_none() && self.leaf_of(&Op::SiteOutput(site)).is_none() {
            return Ok(pending);
        }
        let y = self.settle(pending);
        self.bind(Op::SiteOutput(site), y);
        let y = replaced.map_or(Ok(y), |node| self.expression(false, node))?;
        Ok(Pending { y, bias: None })
    }

    /// Linear layers that read the same input, side by side with their biases:
    /// as one product where nothing said at them forbids it.
    pub fn linear_group(&mut self, sites: &[SiteId], x: ValueId) -> Result<ValueId, CompileError> {
        let plans: Vec<SitePlan> = sites.iter().map(|&site| self.plan_of(site).unwrap_or_default()).collect();
        let low_ranks: Vec<Option<LowRank>> = sites
            .iter()
            .zip(&plans)
            .map(|(&site, plan)| plan.output.and_then(|node| self.low_rank(site, node)))
            .collect();
        let joined = sites.iter().zip(&plans).zip(&low_ranks).all(|((&site, plan), low_rank)| {
            let output_read = low_rank.is_none() && self.leaf_of(&Op::SiteOutput(site)).is_some();
            plan.input.is_none()
                && plan.weight.is_none()
                && !output_read
                && (plan.output.is_none() || low_rank.is_some())
        });
        let width = |builder: &Self, site: SiteId| builder.model.module(site).outputs as usize;
        let total: usize = sites.iter().map(|&site| width(self, site)).sum();
        if !joined {
            let mut parts = Vec::new();
            for &site in sites {
                let pending = self.linear(site, x)?;
                parts.push(self.settle(pending));
            }
            let mut extents = self.extents(x);
            if let Some(last) = extents.last_mut() {
                *last = Extent::Fixed(total);
            }
            let out = self.working(extents, &parts);
            let mut to = 0;
            for (&site, x) in sites.iter().zip(parts) {
                self.push(Instruction::CopyRange { x, out, axis: 1, start: 0, to, accumulate: false });
                to += width(self, site);
            }
            return Ok(out);
        }
        let ids = |pick: fn(&host_ir::model::Module) -> Option<ParameterId>| -> Option<Vec<ParameterId>> {
            sites.iter().map(|&site| pick(self.model.module(site))).collect()
        };
        let (weights, biases) = (ids(|module| module.weight).unwrap_or_default(), ids(|module| module.bias));
        let weight = self.joined_parameters(&weights);
        let bias = biases.map(|ids| self.joined_parameters(&ids));
        let pending = self.product(x, weight, bias);
        let mut first_column = 0;
        for (&site, low_rank) in sites.iter().zip(&low_ranks) {
            self.bind(Op::SiteInput(site), x);
            if let Some(low_rank) = low_rank {
                self.add_low_rank(low_rank, x, pending.y, first_column)?;
            }
            first_column += width(self, site);
        }
        Ok(self.settle(pending))
    }

    /// Recognises y + scale * (dropout(x) a^T) b^T, whose `y` nobody else reads.
    fn low_rank(&self, site: SiteId, output: NodeId) -> Option<LowRank> {
        let graph = &self.method.graph;
        let op = |node: NodeId| &graph.node(node).op;
        let inputs = |node: NodeId| graph.node(node).inputs.as_slice();
        let y = self.leaf_of(&Op::SiteOutput(site))?;
        let readers = graph.nodes.iter().filter(|node| node.inputs.contains(&y)).count();
        if *op(output) != Op::Binary(Binary::Add) || readers != 1 {
            return None;
        }
        let mut delta = match inputs(output) {
            [first, second] if *first == y => *second,
            [first, second] if *second == y => *first,
            _ => return None,
        };
        let mut scale = 1.0;
        while let Op::Affine { factor, offset: 0.0 } = op(delta) {
            scale *= factor;
            delta = inputs(delta)[0];
        }
        let transposed = |node: NodeId| match op(node) {
            Op::Permute(axes) if *axes == [1, 0] => {
                let inner = inputs(node)[0];
                matches!(op(inner), Op::New(_)).then_some(inner)
            }
            _ => None,
        };
        let product = |node: NodeId| (*op(node) == Op::Matmul).then(|| (inputs(node)[0], inputs(node)[1]));
        let (hidden, b) = product(delta)?;
        let (mut x, a) = product(hidden)?;
        let mut dropout = 0.0;
        if let Op::Dropout(probability) = op(x) {
            dropout = *probability;
            x = inputs(x)[0];
        }
        let plain = *op(x) == Op::SiteInput(site);
        plain.then(|| Some(LowRank { a: transposed(a)?, b: transposed(b)?, scale, dropout }))?
    }

    fn add_low_rank(
        &mut self,
        low_rank: &LowRank,
        x: ValueId,
        y: ValueId,
        first_column: usize,
    ) -> Result<(), CompileError> {
        let a = self.expression(false, low_rank.a)?;
        let b = self.expression(false, low_rank.b)?;
        let mut extents = self.extents(x);
        if let (Some(last), Some(&rank)) = (extents.last_mut(), self.program.value(a).extents.first()) {
            *last = rank;
        }
        let wants = self.wants(&[x, a, b]);
        self.program.values[y.0 as usize].wants_gradient |= wants;
        let hidden = self.working(extents, &[x, a]);
        let dropout = self.dropout_site(low_rank.dropout);
        self.push(Instruction::LowRank {
            x,
            a,
            b,
            hidden,
            y,
            first_column,
            scale: low_rank.scale as f32,
            dropout,
        });
        Ok(())
    }

    /// The output of a part of the model, or what the method puts in its place.
    pub fn replaced_output(
        &mut self,
        name: &str,
        input: Option<ValueId>,
        output: ValueId,
    ) -> Result<ValueId, CompileError> {
        let site = self.site(name)?;
        if let Some(input) = input {
            self.bind(Op::SiteInput(site), input);
        }
        self.bind(Op::SiteOutput(site), output);
        match self.plan_of(site).and_then(|plan| plan.output) {
            Some(node) => self.expression(false, node),
            None => Ok(output),
        }
    }

    /// As [`Self::replaced_output`], of a part whose bias is still to be added.
    pub fn replaced_pending(
        &mut self,
        name: &str,
        input: ValueId,
        pending: Pending,
    ) -> Result<Pending, CompileError> {
        let site = self.site(name)?;
        self.bind(Op::SiteInput(site), input);
        let replaced = self.plan_of(site).and_then(|plan| plan.output);
        self.finish_output(site, replaced, pending)
    }
}
