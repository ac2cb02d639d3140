//! From plans to programs: the model's computation with the method's hooks,
//! the task's losses and outputs, and the reverse pass.

use std::sync::Arc;

use half::bf16;
use host_ir::method::MethodPlan;
use host_ir::model::ModelDescription;
use host_ir::task::TaskPlan;

use crate::models::Architecture;
use crate::parameters::Parameters;
use crate::program::absorb::absorb_projections;
use crate::program::backward;
use crate::program::build::{Builder, CompileError, Loss, Output, Program, Purpose};
use crate::program::halves::halves;
use crate::program::instruction::Instruction;
use crate::program::layout::{Lifetimes, prune};
use crate::program::narrow::narrow;
use crate::program::queries::narrow_queries;
use crate::program::slopes::keep_slopes;
use crate::program::value::{Sizes, ValueId};
use crate::program::virtuals::narrow_to_virtual;

/// All that a program is compiled from.
#[derive(Clone)]
pub struct Plans {
    pub config: Arc<dyn Architecture>,
    pub model: Arc<ModelDescription>,
    pub task: Arc<TaskPlan>,
    pub method: Arc<MethodPlan>,
    pub parameters: Arc<Parameters>,
}

/// A program, and what is known of its values.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub program: Program,
    pub lifetimes: Lifetimes,
    /// By value: whether kernels that take bf16 alone touch it.
    pub halves: Vec<bool>,
}

impl Plans {
    /// Lays out the parameters of a model under a task's and a method's plan.
    pub fn new(
        config: impl Into<Arc<dyn Architecture>>,
        model: ModelDescription,
        task: TaskPlan,
        method: MethodPlan,
    ) -> Plans {
        let config = config.into();
        let parameters = Parameters::new(&model, &method, &config.fused(&model));
        Plans {
            config,
            model: Arc::new(model),
            task: Arc::new(task),
            method: Arc::new(method),
            parameters: Arc::new(parameters),
        }
    }

    /// The program of a training step, forward and backward.
    ///
    /// # Errors
    /// What the plans say and this engine cannot run; something that trains and
    /// on which the loss does not depend.
    pub fn training(&self) -> Result<Compiled, CompileError> {
        let mut program = self.forward(true)?;
        backward::differentiate(&mut program, &self.parameters)?;
        narrow_to_virtual(&mut program);
        keep_slopes(&mut program);
        Ok(finished(program))
    }

    /// The program of an evaluation: losses and outputs, without dropout.
    ///
    /// # Errors
    /// As [`Self::training`].
    pub fn evaluation(&self) -> Result<Compiled, CompileError> {
        Ok(finished(self.forward(false)?))
    }

    /// The programs of a generation: of the encoder, and of one step of the decoder,
    /// whose only output are the logits.
    ///
    /// # Errors
    /// As [`Self::training`]; a model without a decoder.
    pub fn generation(&self) -> Result<[Compiled; 2], CompileError> {
        let build = |purpose: Purpose| -> Result<Program, CompileError> {
            let mut builder = Builder::new(&self.model, &self.method, &self.task, &self.parameters, false);
            builder.purpose = purpose;
            builder.check_hooks()?;
            self.config.build(&mut builder)?;
            let logits = builder.logits.map(|value| Output { name: "logits".into(), value });
            let mut program = builder.program;
            program.outputs.extend(logits);
            prune(&mut program);
            Ok(program)
        };
        let (encode, decode) = (build(Purpose::Encode)?, build(Purpose::Decode)?);
        match decode.outputs.is_empty() {
            true => Err(CompileError::Wrong(format!("{} has no decoder", self.config.name()))),
            false => Ok([finished(encode), finished(decode)]),
        }
    }

    fn forward(&self, training: bool) -> Result<Program, CompileError> {
        let mut builder = Builder::new(&self.model, &self.method, &self.task, &self.parameters, training);
        builder.check_hooks()?;
        self.config.build(&mut builder)?;
        for &node in &self.task.losses {
            let value = builder.expression(true, node)?;
            builder.add_loss(Loss { value, once: false });
        }
        for &node in &self.method.losses {
            let value = builder.expression(false, node)?;
            builder.add_loss(Loss { value, once: true });
        }
        if !training {
            for (name, node) in &self.task.outputs {
                let value = builder.expression(true, *node)?;
                builder.program.outputs.push(Output { name: name.clone(), value });
            }
        }
        let mut program = builder.program;
        prune(&mut program);
        narrow(&mut program);
        narrow_queries(&mut program);
        absorb_projections(&mut program, &self.parameters);
        Ok(program)
    }
}

impl Builder<'_> {
    fn add_loss(&mut self, loss: Loss) {
        let number = self.program.losses.len();
        self.push(Instruction::SumLoss { x: loss.value, loss: number });
        self.program.losses.push(loss);
    }
}

fn finished(program: Program) -> Compiled {
    let lifetimes = Lifetimes::new(&program);
    let halves = halves(&program);
    Compiled { program, lifetimes, halves }
}

impl Compiled {
    /// Bytes of working memory for a batch of these sizes.
    pub fn working_bytes(&self, sizes: &Sizes) -> usize {
        self.lifetimes.assign(&self.program, sizes, &mut Vec::new()) * size_of::<f32>()
    }

    /// Bytes of working memory where each value has an array of its own while it lives, of
    /// bf16 or, where `halves` does not say so, of fp32, and at each instruction there is some more.
    pub fn bytes_of_arrays(&self, sizes: &Sizes, halves: &[bool], more: &[usize]) -> usize {
        let bytes = |value: ValueId| {
            let size = if halves[value.0 as usize] { size_of::<bf16>() } else { size_of::<f32>() };
            size * self.program.value(value).elements(sizes)
        };
        let live = self.lifetimes.live(bytes);
        live.iter().zip(more).map(|(live, more)| live + more).max().unwrap_or(0)
    }
}
