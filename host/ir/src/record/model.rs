//! The functions of the contract's `model`.

use std::sync::Arc;

use crate::graph::{Kind, Op, Scope};
use crate::model::{ModelDescription, Module, ParameterId, Role, SiteId, SiteKind};
use crate::record::{Answer, Handle, Recorder};
use crate::select::{self, NamesOrPattern, Selection};
use crate::settings::did_you_mean;
use crate::shape::{Dim, Shape};

/// Values of which there is one for each parameter or site.
const BASE: u8 = 0;
const SITE: u8 = 1;
const INPUT: u8 = 2;
const OUTPUT: u8 = 3;

impl Recorder {
    /// `model.architecture`.
    pub fn architecture(&self) -> Answer<String> {
        Ok(self.model("model.architecture")?.architecture.clone())
    }

    /// `model.fact`.
    pub fn fact(&self, key: &str) -> Answer<Option<u64>> {
        Ok(self.model("model.fact")?.facts.get(key).copied())
    }

    fn kind(&self, function: &'static str, kind: &str) -> Answer<SiteKind> {
        SiteKind::from_name(kind).ok_or_else(|| {
            let known: Vec<&str> = SiteKind::NAMES.iter().map(|(name, _)| *name).collect();
            self.wrong(
                function,
                format!("{function}: there is no kind of site \"{kind}\"{}", did_you_mean(kind, &known)),
            )
        })
    }

    /// `model.sites`.
    pub fn sites(&mut self, kind: &str) -> Answer<Vec<u32>> {
        let model = self.model("model.sites")?;
        let kind = self.kind("model.sites", kind)?;
        Ok(model.sites(kind).into_iter().map(|site| self.give_site(site)).collect())
    }

    /// `model.select`.
    pub fn select(
        &mut self,
        kind: &str,
        targets: &NamesOrPattern,
        exclude: &NamesOrPattern,
        layers: &[u32],
        layers_patterns: &[String],
    ) -> Answer<Vec<u32>> {
        let model = self.model("model.select")?;
        let kind = self.kind("model.select", kind)?;
        let selection = Selection { kind, targets, exclude, layers, layers_patterns };
        let chosen =
            select::select(&model, &selection).map_err(|sentence| self.wrong("model.select", sentence))?;
        Ok(chosen.into_iter().map(|site| self.give_site(site)).collect())
    }

    /// `model.lookup`.
    pub fn lookup(&self, site: u32, keys: &[String]) -> Answer<Option<u32>> {
        let (_, module) = self.module("model.lookup", site)?;
        select::lookup(&module.name, keys).map_err(|sentence| self.wrong("model.lookup", sentence))
    }

    fn give_site(&mut self, site: SiteId) -> u32 {
        self.give_once((SITE, site.0), Handle::Site(site))
    }

    /// One number for a value that is the same whenever it is asked for.
    fn give_once(&mut self, key: (u8, u32), handle: Handle) -> u32 {
        if let Some(&number) = self.known.get(&key) {
            return number;
        }
        let number = self.give(handle);
        self.known.insert(key, number);
        number
    }

    pub(super) fn module(&self, function: &'static str, site: u32) -> Answer<(SiteId, Module)> {
        let model = self.model(function)?;
        let id = self.site(function, site)?;
        Ok((id, model.module(id).clone()))
    }

    /// `model.name`.
    pub fn site_name(&self, site: u32) -> Answer<String> {
        Ok(self.module("model.name", site)?.1.name)
    }

    /// `model.layer`.
    pub fn site_layer(&self, site: u32) -> Answer<Option<u32>> {
        Ok(self.module("model.layer", site)?.1.layer)
    }

    /// `model.inputs`.
    pub fn site_inputs(&self, site: u32) -> Answer<u32> {
        Ok(self.module("model.inputs", site)?.1.inputs)
    }

    /// `model.outputs`.
    pub fn site_outputs(&self, site: u32) -> Answer<u32> {
        Ok(self.module("model.outputs", site)?.1.outputs)
    }

    /// `model.input`.
    pub fn site_input(&mut self, site: u32) -> Answer<u32> {
        let (id, module) = self.module("model.input", site)?;
        if module.kind == SiteKind::Embedding {
            return Err(self.wrong(
                "model.input",
                format!("model.input: {} reads token ids, which are not a value yet", module.name),
            ));
        }
        Ok(self.flow((INPUT, id.0), Op::SiteInput(id), module.inputs))
    }

    /// `model.output`.
    pub fn site_output(&mut self, site: u32) -> Answer<u32> {
        let (id, module) = self.module("model.output", site)?;
        Ok(self.flow((OUTPUT, id.0), Op::SiteOutput(id), module.outputs))
    }

    /// A value of shape [tokens, size] that flows at a site.
    fn flow(&mut self, key: (u8, u32), op: Op, size: u32) -> u32 {
        if let Some(&number) = self.known.get(&key) {
            return number;
        }
        let shape = Shape(vec![Dim::Tokens, Dim::Fixed(size)]);
        let place = self.place.clone();
        let node = self.graph_mut().leaf(op, shape, Kind::Real, Scope::Sequence, place);
        self.give_once(key, Handle::Node(node))
    }

    /// `model.weight`.
    pub fn site_weight(&mut self, site: u32) -> Answer<u32> {
        let (_, module) = self.module("model.weight", site)?;
        match module.weight {
            Some(id) => self.give_parameter("model.weight", id),
            None => Err(self.wrong(
                "model.weight",
                format!(
                    "model.weight: {} is a site of kind {} and has no weight",
                    module.name,
                    module.kind.name()
                ),
            )),
        }
    }

    /// `model.bias`.
    pub fn site_bias(&mut self, site: u32) -> Answer<Option<u32>> {
        let (_, module) = self.module("model.bias", site)?;
        module.bias.map(|id| self.give_parameter("model.bias", id)).transpose()
    }

    fn give_parameter(&mut self, function: &'static str, id: ParameterId) -> Answer<u32> {
        if let Some(&number) = self.known.get(&(BASE, id.0)) {
            return Ok(number);
        }
        let model = self.model(function)?;
        let node = self.graph_mut().base_leaf(&model, id);
        Ok(self.give_once((BASE, id.0), Handle::Node(node)))
    }

    /// `model.parameters`.
    pub fn parameters(&mut self, role: &str) -> Answer<Vec<u32>> {
        let model = self.model("model.parameters")?;
        let wanted: fn(&crate::model::Parameter) -> bool = match role {
            "bias" => |parameter| parameter.name.ends_with("bias"),
            "weight" => |parameter| parameter.role == Role::Weight,
            "norm" => |parameter| matches!(parameter.role, Role::NormWeight | Role::NormBias),
            "embedding" => |parameter| parameter.role == Role::Embedding,
            "head" => |parameter| parameter.head,
            "all" => |_| true,
            _ => {
                let known = ["bias", "weight", "norm", "embedding", "head", "all"];
                let sentence =
                    format!("model.parameters: there is no role \"{role}\"{}", did_you_mean(role, &known));
                return Err(self.wrong("model.parameters", sentence));
            }
        };
        self.give_parameters(&model, |_, parameter| wanted(parameter))
    }

    /// `model.parameters-matching`.
    pub fn parameters_matching(&mut self, pattern: &str) -> Answer<Vec<u32>> {
        let function = "model.parameters-matching";
        let model = self.model(function)?;
        let expression = select::whole(pattern).map_err(|sentence| self.wrong(function, sentence))?;
        let found = self.give_parameters(&model, |_, parameter| expression.is_match(&parameter.name))?;
        match found.is_empty() {
            true => Err(self.wrong(function, format!(
                "the pattern \"{pattern}\" matches no parameter; it must match the whole name, such as \"{}\"",
                model.parameters.first().map_or("", |parameter| &parameter.name)
            ))),
            false => Ok(found),
        }
    }

    fn give_parameters(
        &mut self,
        model: &Arc<ModelDescription>,
        wanted: impl Fn(ParameterId, &crate::model::Parameter) -> bool,
    ) -> Answer<Vec<u32>> {
        let ids = (0..model.parameters.len() as u32).map(ParameterId);
        let trainable = |id: ParameterId| model.parameter(id).role != Role::Buffer;
        ids.filter(|&id| trainable(id) && wanted(id, model.parameter(id)))
            .map(|id| self.give_parameter("model.parameters", id))
            .collect()
    }

    /// `model.parameter-name`.
    pub fn parameter_name(&self, parameter: u32) -> Answer<String> {
        let function = "model.parameter-name";
        let node = self.node(function, parameter)?;
        let model = self.model(function)?;
        match self.graph().node(node).op {
            Op::Base(id) => Ok(model.parameter(id).name.clone()),
            Op::New(id) => Ok(self.method.parameter(id).name.clone()),
            _ => Err(self.wrong(
                function,
                format!(
                    "{function}: a parameter is wanted, not the result of {}",
                    self.graph().node(node).op.name()
                ),
            )),
        }
    }

    /// `model.word-embeddings`.
    pub fn word_embeddings(&mut self) -> Answer<u32> {
        let model = self.model("model.word-embeddings")?;
        match model.word_embeddings {
            Some(id) => self.give_parameter("model.word-embeddings", id),
            None => Err(self.wrong("model.word-embeddings", "this model has no word embeddings")),
        }
    }

    /// `model.tokenize`.
    pub fn tokenize(&self, text: &str) -> Answer<Vec<u32>> {
        self.model("model.tokenize")?;
        match &self.tokenize {
            Some(tokenize) => Ok(tokenize(text)),
            None => Err(self.wrong("model.tokenize", "there is no tokenizer here")),
        }
    }
}
