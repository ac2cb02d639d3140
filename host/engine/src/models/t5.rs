//! T5 (Raffel et al. 2020), versions 1.0 and 1.1, and mT5 (Xue et al. 2021), as
//! T5ForConditionalGeneration, T5ForSequenceClassification and T5ForTokenClassification
//! of transformers have them. The last has no decoder.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_ir::graph::Op;
use host_ir::model::{ModelDescription, Parameter, ParameterId, Role, SiteId, SiteKind};
use host_ir::task::HeadKind;
use serde_json::{Map, Value};

use crate::kernels::relative::Buckets;
use crate::models::config::{ConfigError, Keys};
use crate::models::decoder::{self, Side, Source, Stacks, sites};
use crate::models::describe::Describer;
use crate::models::{Architecture, Decoder, Start, heads};
use crate::program::attend::AttentionShape;
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::{Activation, Dropout};
use crate::program::value::ValueId;

/// What config.json says of a T5.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    architecture: String,
    /// `d_model`.
    size: usize,
    heads: usize,
    /// `d_kv`: the size of a head.
    head_size: usize,
    /// `d_ff`.
    intermediate_size: usize,
    /// Layers of the encoder and of the decoder.
    layers: [usize; 2],
    vocabulary: usize,
    activation: Activation,
    /// Whether the feed-forward layer is gated, as in version 1.1.
    gated: bool,
    dropout: f64,
    classifier_dropout: f64,
    norm_epsilon: f64,
    /// Buckets of distances, and the distance from which on all are one.
    buckets: usize,
    farthest: usize,
    /// `tie_word_embeddings`: the output's weights are the embeddings, and hidden
    /// states are scaled before them, as in version 1.0.
    tied: bool,
    initializer_factor: f64,
    decoder: Decoder,
    facts: BTreeMap<String, u64>,
}

impl T5Config {
    /// Reads the parsed config.json.
    ///
    /// # Errors
    /// A sentence about the key that is missing, of the wrong type, or has a value
    /// that this engine does not have.
    pub fn read(config: &Map<String, Value>) -> Result<T5Config, ConfigError> {
        let keys = Keys(config);
        let function = config.get("feed_forward_proj").and_then(Value::as_str).unwrap_or("relu");
        let (gated, name) = match function.split_once('-') {
            Some(("gated", name)) => (true, name),
            _ => (false, function),
        };
        let activation = match (gated, name) {
            // Of the gated ones GELU is its approximation.
            (true, "gelu") => Activation::GeluTanh,
            _ => Activation::named("feed_forward_proj", name)?,
        };
        let size = keys.size("d_model")?;
        let layers = keys.size("num_layers")?;
        let heads = keys.size("num_heads")?;
        let mut facts = keys.facts();
        for (name, value) in
            [("hidden_size", size), ("num_hidden_layers", layers), ("num_attention_heads", heads)]
        {
            facts.entry(name.into()).or_insert(value as u64);
        }
        let read = T5Config {
            architecture: keys.text("model_type")?.into(),
            size,
            heads,
            head_size: keys.size("d_kv")?,
            intermediate_size: keys.size("d_ff")?,
            layers: [layers, keys.size_or("num_decoder_layers", layers)?],
            vocabulary: keys.size("vocab_size")?,
            activation,
            gated,
            dropout: keys.real("dropout_rate", 0.1),
            classifier_dropout: keys.real("classifier_dropout", 0.0),
            norm_epsilon: keys.real("layer_norm_epsilon", 1e-6),
            buckets: keys.size_or("relative_attention_num_buckets", 32)?,
            farthest: keys.size_or("relative_attention_max_distance", 128)?,
            tied: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true),
            initializer_factor: keys.real("initializer_factor", 1.0),
            decoder: Decoder {
                start: keys.id("decoder_start_token_id", Some(keys.id("pad_token_id", Some(0))?))?,
                ends: keys.ids("eos_token_id", 1)?,
                forced_first: keys.optional_id("forced_bos_token_id")?,
                forced_last: keys.optional_id("forced_eos_token_id")?,
                padding: keys.id("pad_token_id", Some(0))?,
                first_position: 0,
                positions: None,
            },
            facts,
        };
        if read.buckets < 4 || read.farthest <= read.buckets / 2 {
            return Err(ConfigError(format!(
                "relative_attention_num_buckets is {} and relative_attention_max_distance {}; at least 4 buckets and a distance beyond half of them are wanted",
                read.buckets, read.farthest
            )));
        }
        Ok(read)
    }

    /// Size of all heads together.
    fn inner(&self) -> usize {
        self.heads * self.head_size
    }

    fn buckets(&self, side: Side) -> Buckets {
        let bidirectional = side == Side::Encoder;
        Buckets { count: self.buckets, farthest: self.farthest, bidirectional }
    }

    /// Names of the linear parts of a feed-forward layer that read its input.
    fn feed_forward(&self) -> &'static [&'static str] {
        if self.gated { &["wi_0", "wi_1"] } else { &["wi"] }
    }

    /// The word embeddings and the encoder, after a prefix.
    fn describe_encoder<'a>(&self, prefix: &str, present: &'a dyn Fn(&str) -> bool) -> Describer<'a> {
        let mut describer = Describer { model: ModelDescription::default(), present };
        describer.model.architecture = self.architecture.clone();
        describer.model.facts = self.facts.clone();
        let word = describer.embedding(&format!("{prefix}shared"), self.vocabulary, self.size);
        describer.model.word_embeddings = Some(word);
        describe_stack(&mut describer, self, prefix, Side::Encoder);
        describer
    }

    fn shape(&self, builder: &mut Builder<'_>, causal: bool) -> AttentionShape {
        let dropout = builder.dropout_site(self.dropout);
        AttentionShape { heads: self.heads, size: self.inner(), scale: 1.0, causal, dropout }
    }
}

/// The word embeddings, which both stacks and a tied output share.
const SHARED: &str = "shared.weight";
const OUTPUT: &str = "lm_head.weight";
/// The head for classes of tokens.
const CLASSIFIER: &str = "classifier";

/// What transformers has before the names of the base model where its head is one for
/// classes; under the head for sequence to sequence there is nothing.
const PREFIX: &str = "transformer.";

/// What stands before the names of a model's base.
fn prefix_of(model: &ModelDescription) -> &'static str {
    if model.find_parameter(SHARED).is_some() { "" } else { PREFIX }
}

/// The name of a stack's table of relative positions.
fn bias_name(stack: &str) -> String {
    format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias")
}

fn describe_stack(describer: &mut Describer<'_>, config: &T5Config, prefix: &str, side: Side) {
    let stack = format!("{prefix}{}", side.name());
    let (size, inner) = (config.size, config.inner());
    let (self_attention, cross_attention) = ("SelfAttention", "EncDecAttention");
    let attentions: &[&str] = match side {
        Side::Encoder => &[self_attention],
        Side::Decoder => &[self_attention, cross_attention],
    };
    for number in 0..config.layers(side) {
        let (layer, block) = (Some(number as u32), format!("{stack}.block.{number}"));
        for (place, attention) in attentions.iter().enumerate() {
            let name = format!("{block}.layer.{place}.{attention}");
            describer.scale(&format!("{block}.layer.{place}.layer_norm"), layer, size);
            for part in ["q", "k", "v"] {
                describer.matrix(&format!("{name}.{part}"), layer, size, inner);
            }
            describer.matrix(&format!("{name}.o"), layer, inner, size);
            if number == 0 && *attention == self_attention {
                describer.embedding(&bias_name(&stack), config.buckets, config.heads);
            }
            describer.part(&name, SiteKind::Attention, number as u32, size);
        }
        let place = attentions.len();
        describer.scale(&format!("{block}.layer.{place}.layer_norm"), layer, size);
        let name = format!("{block}.layer.{place}.DenseReluDense");
        for part in config.feed_forward() {
            describer.matrix(&format!("{name}.{part}"), layer, size, config.intermediate_size);
        }
        describer.matrix(&format!("{name}.wo"), layer, config.intermediate_size, size);
        describer.part(&name, SiteKind::FeedForward, number as u32, size);
        describer.part(&block, SiteKind::Block, number as u32, size);
    }
    describer.scale(&format!("{stack}.final_layer_norm"), None, size);
}

impl Architecture for T5Config {
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
        None
    }

    fn prefix(&self, head: Option<HeadKind>) -> &'static str {
        match head {
            None | Some(HeadKind::SequenceToSequence) => "",
            Some(_) => PREFIX,
        }
    }

    fn aliases(&self, parameter: &str) -> Vec<String> {
        let Some(prefix) = parameter.strip_suffix(SHARED) else { return Vec::new() };
        let sides = [Side::Encoder, Side::Decoder].iter();
        let mut aliases: Vec<String> =
            sides.map(|side| format!("{prefix}{}.embed_tokens.weight", side.name())).collect();
        if self.tied {
            aliases.push(OUTPUT.into());
        }
        aliases
    }

    /// As `_init_weights` of transformers' T5.
    fn start(&self, parameter: &Parameter) -> Start {
        let [size, inner] = [self.size as f64, self.inner() as f64];
        let deviation = match parameter.name.rsplit('.').nth(1).unwrap_or_default() {
            "shared" | "lm_head" | CLASSIFIER => 1.0,
            "q" => (size * self.head_size as f64).powf(-0.5),
            "o" => inner.powf(-0.5),
            "wo" => (self.intermediate_size as f64).powf(-0.5),
            _ => size.powf(-0.5),
        };
        Start { deviation: self.initializer_factor * deviation, zero_row: None }
    }

    fn decoder(&self) -> Option<&Decoder> {
        Some(&self.decoder)
    }

    fn set_dropout(&mut self, probability: f64) {
        self.dropout = probability;
        self.classifier_dropout = probability;
    }

    fn describe(&self, head: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        let prefix = self.prefix(Some(head));
        let mut describer = self.describe_encoder(prefix, present);
        if let HeadKind::TokenClassification { classes } = head {
            describer.linear(CLASSIFIER, None, self.size, classes as usize, true);
            return describer.model;
        }
        describe_stack(&mut describer, self, prefix, Side::Decoder);
        match head {
            HeadKind::Classification { classes } => {
                decoder::describe_classification(&mut describer, self.size, classes);
            }
            HeadKind::SequenceToSequence => {
                // transformers ties what a checkpoint has not apart.
                if !self.tied && present(OUTPUT) {
                    describer.parameter(OUTPUT.into(), &[self.vocabulary, self.size], Role::Embedding, false);
                }
                decoder::describe_output(&mut describer, [OUTPUT, SHARED], (self.size, self.vocabulary));
            }
            // Refused when it is built.
            _ => {}
        }
        describer.model
    }

    /// As T5EncoderModel has them.
    fn describe_headless(&self, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        self.describe_encoder(self.prefix(None), present).model
    }

    fn fused(&self, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
        let mut modules: Vec<(String, &[&str])> = Vec::new();
        for (side, last) in [(Side::Encoder, 1), (Side::Decoder, 2)] {
            for number in 0..self.layers(side) {
                let layer = format!("{}{}.block.{number}.layer", prefix_of(model), side.name());
                modules.push((format!("{layer}.0.SelfAttention"), &["q", "k", "v"]));
                modules.push((format!("{layer}.1.EncDecAttention"), &["k", "v"]));
                modules.push((format!("{layer}.{last}.DenseReluDense"), self.feed_forward()));
            }
        }
        decoder::side_by_side(model, modules)
    }

    fn build(&self, builder: &mut Builder<'_>) -> Result<(), CompileError> {
        match builder.task.head {
            Some(HeadKind::TokenClassification { .. }) => {
                let encoded = self.stack(builder, Side::Encoder, None)?;
                let logits = heads::tokens(builder, self.classifier_dropout, encoded)?;
                for node in builder.task_leaves(|op| matches!(op, Op::TokenLogits(_))) {
                    builder.remember(true, node, logits);
                }
                return Ok(());
            }
            None => {
                let encoded = self.stack(builder, Side::Encoder, None)?;
                heads::bind_states(builder, encoded);
                return Ok(());
            }
            Some(HeadKind::MultipleChoice | HeadKind::MaskedLanguageModel) => {
                return decoder::no_head(builder, "texts and for classes of sequences and of tokens");
            }
            _ => {}
        }
        let Some(mut hidden) = decoder::hidden(builder, self)? else { return Ok(()) };
        if let Some(HeadKind::Classification { .. }) = builder.task.head {
            return decoder::classify(builder, hidden, self.classifier_dropout);
        }
        if self.tied {
            hidden = builder.affine(hidden, (self.size as f64).powf(-0.5), 0.0);
        }
        let logits = decoder::logits(builder, hidden, None)?;
        decoder::bind_logits(builder, logits);
        Ok(())
    }
}

impl From<T5Config> for Arc<dyn Architecture> {
    fn from(config: T5Config) -> Arc<dyn Architecture> {
        Arc::new(config)
    }
}

impl Stacks for T5Config {
    fn layers(&self, side: Side) -> usize {
        self.layers[usize::from(side == Side::Decoder)]
    }

    fn memory_sites(&self, builder: &Builder<'_>, layer: usize) -> Result<[SiteId; 2], CompileError> {
        let prefix = prefix_of(builder.model);
        sites(builder, &format!("{prefix}decoder.block.{layer}.layer.1.EncDecAttention"), ["k", "v"])
    }

    fn stack(
        &self,
        builder: &mut Builder<'_>,
        side: Side,
        source: Option<Source>,
    ) -> Result<ValueId, CompileError> {
        let prefix = prefix_of(builder.model);
        let stack = format!("{prefix}{}", side.name());
        let word = builder.named(&format!("{prefix}{SHARED}"))?;
        let embedded = decoder::embed(builder, side, (word, 1.0, None), None, self.size)?;
        let dropout = builder.dropout_site(self.dropout);
        let mut x = builder.dropped(embedded, dropout);
        let table = builder.named(&format!("{}.weight", bias_name(&stack)))?;
        let bias = Some((table, self.buckets(side)));
        for number in 0..self.layers(side) {
            let name = format!("{stack}.block.{number}");
            let layer = |place: usize| format!("{name}.layer.{place}");
            let mut h = sublayer(builder, self, &layer(0), "SelfAttention", x, |builder, name, x| {
                let shape = self.shape(builder, side == Side::Decoder);
                let sites = sites(builder, name, ["q", "k", "v"])?;
                decoder::self_attention(builder, number, sites, x, bias, shape)
            })?;
            let mut last = 1;
            if let Some(source) = source {
                h = sublayer(builder, self, &layer(1), "EncDecAttention", h, |builder, name, x| {
                    let shape = self.shape(builder, false);
                    let sites = sites(builder, name, ["q", "k", "v"])?;
                    decoder::cross_attention(builder, number, sites, x, source, shape)
                })?;
                last = 2;
            }
            h = sublayer(builder, self, &layer(last), "DenseReluDense", h, |builder, name, x| {
                feed_forward(builder, self, name, x)
            })?;
            x = builder.replaced_output(&name, Some(x), h)?;
        }
        let dropout = builder.dropout_site(self.dropout);
        norm(builder, self, &format!("{stack}.final_layer_norm"), x, dropout)
    }
}

fn norm(
    builder: &mut Builder<'_>,
    config: &T5Config,
    name: &str,
    x: ValueId,
    after: Option<Dropout>,
) -> Result<ValueId, CompileError> {
    let gain = builder.named(&format!("{name}.weight"))?;
    let out = builder.rms_norm(x, gain, config.norm_epsilon as f32, after);
    builder.replaced_output(name, None, out)
}

/// x + dropout(W f(norm(x))): `inner` is f, and W the last linear part.
fn sublayer(
    builder: &mut Builder<'_>,
    config: &T5Config,
    layer: &str,
    module: &str,
    x: ValueId,
    inner: impl FnOnce(&mut Builder<'_>, &str, ValueId) -> Result<ValueId, CompileError>,
) -> Result<ValueId, CompileError> {
    let name = format!("{layer}.{module}");
    let normed = norm(builder, config, &format!("{layer}.layer_norm"), x, None)?;
    let within = inner(builder, &name, normed)?;
    let last = builder.site(&format!("{name}.{}", if module == "DenseReluDense" { "wo" } else { "o" }))?;
    let pending = builder.linear(last, within)?;
    let pending = builder.replaced_pending(&name, normed, pending)?;
    let dropout = builder.dropout_site(config.dropout);
    Ok(builder.residual(pending, x, dropout))
}

/// The feed-forward layer up to its last linear part.
fn feed_forward(
    builder: &mut Builder<'_>,
    config: &T5Config,
    name: &str,
    x: ValueId,
) -> Result<ValueId, CompileError> {
    let activated = if config.gated {
        let joined = builder.linear_group(&sites(builder, name, ["wi_0", "wi_1"])?, x)?;
        builder.gate(joined, config.activation)
    } else {
        let [site] = sites(builder, name, ["wi"])?;
        let pending = builder.linear(site, x)?;
        builder.activate(pending, config.activation)
    };
    let dropout = builder.dropout_site(config.dropout);
    Ok(builder.dropped(activated, dropout))
}
