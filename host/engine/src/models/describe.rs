//! Making the list of a model's modules and parameters.

use host_ir::model::{ModelDescription, Module, Parameter, ParameterId, Role, SiteKind};

/// Makes the list of modules and parameters.
pub struct Describer<'a> {
    pub model: ModelDescription,
    /// Whether the checkpoint has a parameter.
    pub present: &'a dyn Fn(&str) -> bool,
}

impl Describer<'_> {
    pub fn parameter(&mut self, name: String, shape: &[usize], role: Role, head: bool) -> ParameterId {
        let shape = shape.iter().map(|&size| size as u32).collect();
        self.model.parameters.push(Parameter { name, shape, role, head });
        ParameterId(self.model.parameters.len() as u32 - 1)
    }

    pub fn module(
        &mut self,
        name: &str,
        kind: SiteKind,
        layer: Option<u32>,
        sizes: (usize, usize),
        parameters: [Option<ParameterId>; 2],
        head: bool,
    ) {
        let [weight, bias] = parameters;
        let (inputs, outputs) = (sizes.0 as u32, sizes.1 as u32);
        self.model.modules.push(Module {
            name: name.into(),
            kind,
            layer,
            inputs,
            outputs,
            weight,
            bias,
            head,
        });
    }

    pub fn linear(&mut self, name: &str, layer: Option<u32>, inputs: usize, outputs: usize, head: bool) {
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs], Role::Weight, head);
        let bias = self.parameter(format!("{name}.bias"), &[outputs], Role::Bias, head);
        self.module(name, SiteKind::Linear, layer, (inputs, outputs), [Some(weight), Some(bias)], head);
    }

    /// A linear module without bias.
    pub fn matrix(&mut self, name: &str, layer: Option<u32>, inputs: usize, outputs: usize) {
        let weight = self.parameter(format!("{name}.weight"), &[outputs, inputs], Role::Weight, false);
        self.module(name, SiteKind::Linear, layer, (inputs, outputs), [Some(weight), None], false);
    }

    /// A norm that only scales.
    pub fn scale(&mut self, name: &str, layer: Option<u32>, size: usize) {
        let weight = self.parameter(format!("{name}.weight"), &[size], Role::NormWeight, false);
        self.module(name, SiteKind::Norm, layer, (size, size), [Some(weight), None], false);
    }

    pub fn norm(&mut self, name: &str, layer: Option<u32>, size: usize, head: bool) {
        let weight = self.parameter(format!("{name}.weight"), &[size], Role::NormWeight, head);
        let bias = self.parameter(format!("{name}.bias"), &[size], Role::NormBias, head);
        self.module(name, SiteKind::Norm, layer, (size, size), [Some(weight), Some(bias)], head);
    }

    pub fn embedding(&mut self, name: &str, entries: usize, size: usize) -> ParameterId {
        let weight = self.parameter(format!("{name}.weight"), &[entries, size], Role::Embedding, false);
        self.module(name, SiteKind::Embedding, None, (entries, size), [Some(weight), None], false);
        weight
    }

    pub fn part(&mut self, name: &str, kind: SiteKind, layer: u32, size: usize) {
        self.module(name, kind, Some(layer), (size, size), [None, None], false);
    }
}
