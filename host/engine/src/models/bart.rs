//! BART (Lewis et al. 2020), as BartForConditionalGeneration and
//! BartForSequenceClassification of transformers have it.
//!
//! Transformers' masked language model of BART is the first of them, called with labels
//! that are -100 where nothing is masked. Its encoder reads the masked text; its decoder
//! reads the labels shifted to the right behind the start token, the padding token where
//! they are -100, so that it knows of the text what was masked before and nothing else;
//! the row of a masked place says what stood there. So it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_ir::model::{ModelDescription, Parameter, ParameterId, Role, SiteId, SiteKind};
use host_ir::task::HeadKind;
use serde_json::{Map, Value};

use crate::models::config::{ConfigError, Keys};
use crate::models::decoder::{self, Side, Source, Stacks, sites};
use crate::models::describe::Describer;
use crate::models::{Architecture, Decoder, Start, heads};
use crate::program::attend::AttentionShape;
use crate::program::build::{Builder, CompileError, NormParameters, Pending};
use crate::program::instruction::{Activation, RowChoice};
use crate::program::value::{Extent, ValueId};

/// Positions are counted from here on; fairseq left the entries before to padding.
const FIRST_POSITION: usize = 2;
/// The constant of torch.nn.LayerNorm.
const NORM_EPSILON: f32 = 1e-5;

const SHARED: &str = "model.shared.weight";
const OUTPUT: &str = "lm_head.weight";
const OUTPUT_BIAS: &str = "final_logits_bias";

/// What config.json says of one stack of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stack {
    layers: usize,
    heads: usize,
    intermediate_size: usize,
}

/// What config.json says of a BART.
#[derive(Clone, Debug, PartialEq)]
pub struct BartConfig {
    architecture: String,
    size: usize,
    /// Of the encoder and of the decoder.
    stacks: [Stack; 2],
    vocabulary: usize,
    positions: usize,
    /// `scale_embedding`: embeddings of words are multiplied by the root of their size.
    scales_embeddings: bool,
    activation: Activation,
    dropout: f64,
    attention_dropout: f64,
    activation_dropout: f64,
    classifier_dropout: f64,
    /// Deviation of new weights.
    init_std: f64,
    padding: usize,
    /// `tie_word_embeddings`.
    tied: bool,
    decoder: Decoder,
    facts: BTreeMap<String, u64>,
}

impl BartConfig {
    /// The word embeddings and the encoder.
    fn describe_encoder<'a>(&self, present: &'a dyn Fn(&str) -> bool) -> Describer<'a> {
        let mut describer = Describer { model: ModelDescription::default(), present };
        describer.model.architecture = self.architecture.clone();
        describer.model.facts = self.facts.clone();
        let word = describer.embedding("model.shared", self.vocabulary, self.size);
        describer.model.word_embeddings = Some(word);
        describe_stack(&mut describer, self, Side::Encoder);
        describer
    }

    /// Reads the parsed config.json.
    ///
    /// # Errors
    /// A sentence about the key that is missing, of the wrong type, or has a value
    /// that this engine does not have.
    pub fn read(config: &Map<String, Value>) -> Result<BartConfig, ConfigError> {
        let keys = Keys(config);
        for key in ["encoder_layerdrop", "decoder_layerdrop"] {
            let probability = keys.real(key, 0.0);
            if probability > 0.0 {
                return Err(ConfigError(format!("{key} is {probability}; layers are never left out here")));
            }
        }
        let size = keys.size("d_model")?;
        let stack = |side: &str| -> Result<Stack, ConfigError> {
            let stack = Stack {
                layers: keys.size(&format!("{side}_layers"))?,
                heads: keys.size(&format!("{side}_attention_heads"))?,
                intermediate_size: keys.size(&format!("{side}_ffn_dim"))?,
            };
            match size.is_multiple_of(stack.heads) {
                true => Ok(stack),
                false => Err(ConfigError(format!(
                    "d_model {size} is no multiple of {side}_attention_heads {}",
                    stack.heads
                ))),
            }
        };
        let stacks = [stack("encoder")?, stack("decoder")?];
        let positions = keys.size("max_position_embeddings")?;
        let mut facts = keys.facts();
        let known = [
            ("hidden_size", size),
            ("num_hidden_layers", stacks[0].layers),
            ("num_attention_heads", stacks[0].heads),
        ];
        for (name, value) in known {
            facts.entry(name.into()).or_insert(value as u64);
        }
        let function = config.get("activation_function").and_then(Value::as_str).unwrap_or("gelu");
        Ok(BartConfig {
            architecture: keys.text("model_type")?.into(),
            size,
            stacks,
            vocabulary: keys.size("vocab_size")?,
            positions,
            scales_embeddings: config.get("scale_embedding").and_then(Value::as_bool).unwrap_or(false),
            activation: Activation::named("activation_function", function)?,
            dropout: keys.real("dropout", 0.1),
            attention_dropout: keys.real("attention_dropout", 0.0),
            activation_dropout: keys.real("activation_dropout", 0.0),
            classifier_dropout: keys.real("classifier_dropout", 0.0),
            init_std: keys.real("init_std", 0.02),
            padding: keys.id("pad_token_id", Some(1))? as usize,
            tied: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true),
            decoder: Decoder {
                start: keys.id("decoder_start_token_id", Some(2))?,
                ends: keys.ids("eos_token_id", 2)?,
                forced_first: keys.optional_id("forced_bos_token_id")?,
                forced_last: keys.optional_id("forced_eos_token_id")?,
                padding: keys.id("pad_token_id", Some(1))?,
                first_position: FIRST_POSITION as u32,
                positions: Some(positions),
            },
            facts,
        })
    }

    fn of(&self, side: Side) -> Stack {
        self.stacks[usize::from(side == Side::Decoder)]
    }

    fn shape(&self, builder: &mut Builder<'_>, side: Side, causal: bool) -> AttentionShape {
        let heads = self.of(side).heads;
        let scale = 1.0 / ((self.size / heads) as f32).sqrt();
        let dropout = builder.dropout_site(self.attention_dropout);
        AttentionShape { heads, size: self.size, scale, causal, dropout }
    }
}

/// Attentions of a layer.
fn attentions(side: Side) -> &'static [&'static str] {
    match side {
        Side::Encoder => &["self_attn"],
        Side::Decoder => &["self_attn", "encoder_attn"],
    }
}

fn describe_stack(describer: &mut Describer<'_>, config: &BartConfig, side: Side) {
    let (size, stack) = (config.size, format!("model.{}", side.name()));
    let Stack { layers, intermediate_size, .. } = config.of(side);
    describer.embedding(&format!("{stack}.embed_positions"), config.positions + FIRST_POSITION, size);
    describer.norm(&format!("{stack}.layernorm_embedding"), None, size, false);
    for number in 0..layers as u32 {
        let (layer, name) = (Some(number), format!("{stack}.layers.{number}"));
        for attention in attentions(side) {
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                describer.linear(&format!("{name}.{attention}.{part}"), layer, size, size, false);
            }
            describer.part(&format!("{name}.{attention}"), SiteKind::Attention, number, size);
            describer.norm(&format!("{name}.{attention}_layer_norm"), layer, size, false);
        }
        describer.linear(&format!("{name}.fc1"), layer, size, intermediate_size, false);
        describer.linear(&format!("{name}.fc2"), layer, intermediate_size, size, false);
        describer.part(&format!("{name}.feed_forward"), SiteKind::FeedForward, number, size);
        describer.norm(&format!("{name}.final_layer_norm"), layer, size, false);
        describer.part(&name, SiteKind::Block, number, size);
    }
}

impl Architecture for BartConfig {
    fn name(&self) -> &str {
        &self.architecture
    }

    fn facts(&self) -> &BTreeMap<String, u64> {
        &self.facts
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn positions(&self) -> Option<usize> {
        Some(self.positions)
    }

    fn first_position(&self) -> usize {
        FIRST_POSITION
    }

    fn prefix(&self, _: Option<HeadKind>) -> &'static str {
        "model."
    }

    fn aliases(&self, parameter: &str) -> Vec<String> {
        if parameter != SHARED {
            return Vec::new();
        }
        let mut aliases: Vec<String> =
            ["encoder", "decoder"].iter().map(|side| format!("model.{side}.embed_tokens.weight")).collect();
        if self.tied {
            aliases.push(OUTPUT.into());
        }
        aliases
    }

    fn start(&self, parameter: &Parameter) -> Start {
        let zero_row = (parameter.name == SHARED).then_some(self.padding);
        Start { deviation: self.init_std, zero_row }
    }

    fn decoder(&self) -> Option<&Decoder> {
        Some(&self.decoder)
    }

    fn set_dropout(&mut self, probability: f64) {
        self.dropout = probability;
        self.attention_dropout = probability;
        self.activation_dropout = probability;
        self.classifier_dropout = probability;
    }

    fn describe(&self, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        let mut describer = self.describe_encoder(present);
        describe_stack(&mut describer, self, Side::Decoder);
        match head {
            HeadKind::Classification { classes } => {
                decoder::describe_classification(&mut describer, self.size, classes);
            }
            HeadKind::SequenceToSequence | HeadKind::MaskedLanguageModel => {
                if !self.tied && present(OUTPUT) {
                    describer.parameter(OUTPUT.into(), &[self.vocabulary, self.size], Role::Embedding, false);
                }
                describer.parameter(OUTPUT_BIAS.into(), &[1, self.vocabulary], Role::Buffer, false);
                decoder::describe_output(&mut describer, [OUTPUT, SHARED], (self.size, self.vocabulary));
            }
            // Refused when it is built.
            _ => {}
        }
        describer.model
    }

    fn describe_headless(&self, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        self.describe_encoder(present).model
    }

    fn fused(&self, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
        let mut modules: Vec<(String, &[&str])> = Vec::new();
        for side in [Side::Encoder, Side::Decoder] {
            for number in 0..self.layers(side) {
                let layer = format!("model.{}.layers.{number}", side.name());
                modules.push((format!("{layer}.self_attn"), &["q_proj", "k_proj", "v_proj"]));
                modules.push((format!("{layer}.encoder_attn"), &["k_proj", "v_proj"]));
            }
        }
        decoder::side_by_side(model, modules)
    }

    fn build(&self, builder: &mut Builder<'_>) -> Result<(), CompileError> {
        if let Some(HeadKind::TokenClassification { .. } | HeadKind::MultipleChoice) = builder.task.head {
            return decoder::no_head(builder, "texts, masked tokens and classes of sequences");
        }
        if builder.task.head.is_none() {
            let encoded = self.stack(builder, Side::Encoder, None)?;
            heads::bind_states(builder, encoded);
            return Ok(());
        }
        let Some(mut hidden) = decoder::hidden(builder, self)? else { return Ok(()) };
        if let Some(HeadKind::Classification { .. }) = builder.task.head {
            return decoder::classify(builder, hidden, self.classifier_dropout);
        }
        if builder.task.head == Some(HeadKind::MaskedLanguageModel) {
            hidden = builder.take_rows(hidden, RowChoice::MaskedTarget);
        }
        let bias = builder.named(OUTPUT_BIAS)?;
        let bias = builder.view(bias, vec![Extent::Fixed(self.vocabulary)]);
        let logits = decoder::logits(builder, hidden, Some(bias))?;
        decoder::bind_logits(builder, logits);
        Ok(())
    }
}

impl From<BartConfig> for Arc<dyn Architecture> {
    fn from(config: BartConfig) -> Arc<dyn Architecture> {
        Arc::new(config)
    }
}

fn norm_parameters(builder: &mut Builder<'_>, name: &str) -> Result<NormParameters, CompileError> {
    Ok(NormParameters {
        gain: builder.named(&format!("{name}.weight"))?,
        shift: builder.named(&format!("{name}.bias"))?,
        epsilon: NORM_EPSILON,
    })
}

impl Stacks for BartConfig {
    fn layers(&self, side: Side) -> usize {
        self.of(side).layers
    }

    fn memory_sites(&self, builder: &Builder<'_>, layer: usize) -> Result<[SiteId; 2], CompileError> {
        sites(builder, &format!("model.decoder.layers.{layer}.encoder_attn"), ["k_proj", "v_proj"])
    }

    fn stack(
        &self,
        builder: &mut Builder<'_>,
        side: Side,
        source: Option<Source>,
    ) -> Result<ValueId, CompileError> {
        let stack = format!("model.{}", side.name());
        let mut x = embeddings(builder, self, side, &stack)?;
        for number in 0..self.layers(side) {
            let name = format!("{stack}.layers.{number}");
            let mut h = x;
            for attention in attentions(side) {
                let name = format!("{name}.{attention}");
                let projections = sites(builder, &name, ["q_proj", "k_proj", "v_proj"])?;
                let context = match source.filter(|_| *attention == "encoder_attn") {
                    Some(source) => {
                        let shape = self.shape(builder, side, false);
                        decoder::cross_attention(builder, number, projections, h, source, shape)?
                    }
                    None => {
                        let shape = self.shape(builder, side, side == Side::Decoder);
                        decoder::self_attention(builder, number, projections, h, None, shape)?
                    }
                };
                let last = builder.site(&format!("{name}.out_proj"))?;
                let pending = builder.linear(last, context)?;
                h = residual(builder, self, &name, &format!("{name}_layer_norm"), h, pending)?;
            }
            let [first, second] = sites(builder, &name, ["fc1", "fc2"])?;
            let pending = builder.linear(first, h)?;
            let activated = builder.activate(pending, self.activation);
            let dropout = builder.dropout_site(self.activation_dropout);
            let activated = builder.dropped(activated, dropout);
            let pending = builder.linear(second, activated)?;
            let norm = format!("{name}.final_layer_norm");
            h = residual(builder, self, &format!("{name}.feed_forward"), &norm, h, pending)?;
            x = builder.replaced_output(&name, Some(x), h)?;
        }
        Ok(x)
    }
}

fn embeddings(
    builder: &mut Builder<'_>,
    config: &BartConfig,
    side: Side,
    stack: &str,
) -> Result<ValueId, CompileError> {
    let word = builder.named(SHARED)?;
    let position = builder.named(&format!("{stack}.embed_positions.weight"))?;
    let padding = Some(config.padding as u32);
    let factor = if config.scales_embeddings { (config.size as f64).sqrt() } else { 1.0 };
    let sum = decoder::embed(builder, side, (word, factor, padding), Some(position), config.size)?;
    let name = format!("{stack}.layernorm_embedding");
    let norm = norm_parameters(builder, &name)?;
    let after = builder.dropout_site(config.dropout);
    let out = builder.norm(Pending { y: sum, bias: None }, None, None, norm, after);
    builder.replaced_output(&name, None, out)
}

/// The rest of a sublayer: its hooks, dropout, residual and norm.
fn residual(
    builder: &mut Builder<'_>,
    config: &BartConfig,
    name: &str,
    norm_name: &str,
    x: ValueId,
    pending: Pending,
) -> Result<ValueId, CompileError> {
    let pending = builder.replaced_pending(name, x, pending)?;
    let norm = norm_parameters(builder, norm_name)?;
    let dropout = builder.dropout_site(config.dropout);
    let out = builder.norm(pending, Some(x), dropout, norm, None);
    builder.replaced_output(norm_name, None, out)
}
