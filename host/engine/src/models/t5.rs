//! T5 (Raffel et al. 2020), versions 1.0 and 1.1, and mT5 (Xue et al. 2021), as
//! T5ForConditionalGeneration of transformers has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use host_ir::model::{ModelDescription, Parameter, ParameterId, Role, SiteId, SiteKind};
use host_ir::task::HeadKind;
use serde_json::{Map, Value};

use crate::kernels::relative::Buckets;
use crate::models::config::{ConfigError, Keys};
use crate::models::decoder::{self, Side, Source};
use crate::models::describe::Describer;
use crate::models::{Architecture, Decoder, Start};
use crate::program::attend::AttentionShape;
use crate::program::build::{Builder, CompileError, Purpose};
use crate::program::instruction::{Activation, Instruction};
use crate::program::value::{Extent, ValueId};

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

    fn blocks(&self, side: Side) -> usize {
        self.layers[usize::from(side == Side::Decoder)]
    }

    /// Names of the linear parts of a feed-forward layer that read its input.
    fn feed_forward(&self) -> &'static [&'static str] {
        if self.gated { &["wi_0", "wi_1"] } else { &["wi"] }
    }

    fn shape(&self, builder: &mut Builder<'_>, causal: bool) -> AttentionShape {
        let dropout = builder.dropout_site(self.dropout);
        AttentionShape { heads: self.heads, size: self.inner(), scale: 1.0, causal, dropout }
    }
}

/// The word embeddings, which both stacks and a tied output share.
const SHARED: &str = "shared.weight";
const OUTPUT: &str = "lm_head.weight";

fn bias_name(side: Side) -> String {
    format!("{}.block.0.layer.0.SelfAttention.relative_attention_bias", side.name())
}

fn describe_stack(describer: &mut Describer<'_>, config: &T5Config, side: Side) {
    let (size, inner) = (config.size, config.inner());
    let (self_attention, cross_attention) = ("SelfAttention", "EncDecAttention");
    let attentions: &[&str] = match side {
        Side::Encoder => &[self_attention],
        Side::Decoder => &[self_attention, cross_attention],
    };
    for number in 0..config.blocks(side) {
        let (layer, block) = (Some(number as u32), format!("{}.block.{number}", side.name()));
        for (place, attention) in attentions.iter().enumerate() {
            let name = format!("{block}.layer.{place}.{attention}");
            describer.scale(&format!("{block}.layer.{place}.layer_norm"), layer, size);
            for part in ["q", "k", "v"] {
                describer.matrix(&format!("{name}.{part}"), layer, size, inner);
            }
            describer.matrix(&format!("{name}.o"), layer, inner, size);
            if number == 0 && *attention == self_attention {
                describer.embedding(&bias_name(side), config.buckets, config.heads);
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
    describer.scale(&format!("{}.final_layer_norm", side.name()), None, size);
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

    fn prefix(&self) -> &'static str {
        ""
    }

    fn aliases(&self, parameter: &str) -> Vec<String> {
        let shared = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
        let mut aliases = match parameter {
            SHARED => shared.map(String::from).to_vec(),
            _ => Vec::new(),
        };
        if parameter == SHARED && self.tied {
            aliases.push(OUTPUT.into());
        }
        aliases
    }

    /// As `_init_weights` of transformers' T5.
    fn start(&self, parameter: &Parameter) -> Start {
        let [size, inner] = [self.size as f64, self.inner() as f64];
        let deviation = match parameter.name.rsplit('.').nth(1).unwrap_or_default() {
            "shared" | "lm_head" => 1.0,
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
    }

    fn describe(&self, _: HeadKind, present: &dyn Fn(&str) -> bool) -> ModelDescription {
        let mut describer = Describer { model: ModelDescription::default(), present };
        describer.model.architecture = self.architecture.clone();
        describer.model.facts = self.facts.clone();
        let word = describer.embedding("shared", self.vocabulary, self.size);
        describer.model.word_embeddings = Some(word);
        describe_stack(&mut describer, self, Side::Encoder);
        describe_stack(&mut describer, self, Side::Decoder);
        // transformers ties what a checkpoint has not apart.
        if !self.tied && present(OUTPUT) {
            describer.parameter(OUTPUT.into(), &[self.vocabulary, self.size], Role::Embedding, false);
        }
        describer.model
    }

    fn fused(&self, model: &ModelDescription) -> Vec<Vec<ParameterId>> {
        let mut groups = Vec::new();
        let mut add = |name: &str, parts: &[&str]| {
            let ids = parts.iter().map(|part| model.find_parameter(&format!("{name}.{part}.weight")));
            groups.extend(ids.collect::<Option<Vec<_>>>());
        };
        for side in [Side::Encoder, Side::Decoder] {
            for number in 0..self.blocks(side) {
                let block = format!("{}.block.{number}", side.name());
                add(&format!("{block}.layer.0.SelfAttention"), &["q", "k", "v"]);
                add(&format!("{block}.layer.1.EncDecAttention"), &["k", "v"]);
                let last = if side == Side::Encoder { 1 } else { 2 };
                add(&format!("{block}.layer.{last}.DenseReluDense"), self.feed_forward());
            }
        }
        groups
    }

    fn build(&self, builder: &mut Builder<'_>) -> Result<(), CompileError> {
        decoder::check_head(builder)?;
        let source = match builder.purpose {
            Purpose::Decode => Source::Kept,
            Purpose::Whole => Source::Hidden(build_stack(builder, self, Side::Encoder, None)?),
            Purpose::Encode => {
                let encoded = build_stack(builder, self, Side::Encoder, None)?;
                for number in 0..self.blocks(Side::Decoder) {
                    let name = format!("decoder.block.{number}.layer.1.EncDecAttention");
                    let sites = sites(builder, &name, ["k", "v"])?;
                    decoder::keep_encoded(builder, number, sites, encoded)?;
                }
                return Ok(());
            }
        };
        let mut hidden = build_stack(builder, self, Side::Decoder, Some(source))?;
        if self.tied {
            hidden = builder.affine(hidden, (self.size as f64).powf(-0.5), 0.0);
        }
        let own = builder.model.find_parameter(OUTPUT).is_some();
        let weight = builder.named(if own { OUTPUT } else { SHARED })?;
        let pending = builder.product(hidden, weight, None);
        decoder::bind_logits(builder, pending.y);
        Ok(())
    }
}

impl From<T5Config> for Arc<dyn Architecture> {
    fn from(config: T5Config) -> Arc<dyn Architecture> {
        Arc::new(config)
    }
}

/// The last hidden states of a stack.
fn build_stack(
    builder: &mut Builder<'_>,
    config: &T5Config,
    side: Side,
    source: Option<Source>,
) -> Result<ValueId, CompileError> {
    let word = builder.named(SHARED)?;
    let prompt = match side {
        Side::Encoder => builder.method.prompt.map(|node| builder.expression(false, node)).transpose()?,
        Side::Decoder => None,
    };
    let inputs: Vec<ValueId> = [Some(word), prompt].into_iter().flatten().collect();
    let embedded = builder.working(vec![side.rows(), Extent::Fixed(config.size)], &inputs);
    builder.push(Instruction::Embed { word, position: None, token_type: None, prompt, out: embedded });
    let dropout = builder.dropout_site(config.dropout);
    let mut x = builder.dropped(embedded, dropout);
    let table = builder.named(&format!("{}.weight", bias_name(side)))?;
    let bias = Some((table, config.buckets(side)));
    for number in 0..config.blocks(side) {
        let name = format!("{}.block.{number}", side.name());
        let mut h =
            sublayer(builder, config, &format!("{name}.layer.0"), "SelfAttention", x, |builder, name, x| {
                let shape = config.shape(builder, side == Side::Decoder);
                let sites = sites(builder, name, ["q", "k", "v"])?;
                decoder::self_attention(builder, number, sites, x, bias, shape)
            })?;
        let mut last = 1;
        if let Some(source) = source {
            h = sublayer(
                builder,
                config,
                &format!("{name}.layer.1"),
                "EncDecAttention",
                h,
                |builder, name, x| {
                    let shape = config.shape(builder, false);
                    let sites = sites(builder, name, ["q", "k", "v"])?;
                    decoder::cross_attention(builder, number, sites, x, source, shape)
                },
            )?;
            last = 2;
        }
        h = sublayer(
            builder,
            config,
            &format!("{name}.layer.{last}"),
            "DenseReluDense",
            h,
            |builder, name, x| feed_forward(builder, config, name, x),
        )?;
        x = builder.replaced_output(&name, Some(x), h)?;
    }
    let dropout = builder.dropout_site(config.dropout);
    let name = format!("{}.final_layer_norm", side.name());
    norm(builder, config, &name, x, dropout)
}

fn sites<const PARTS: usize>(
    builder: &Builder<'_>,
    name: &str,
    parts: [&str; PARTS],
) -> Result<[SiteId; PARTS], CompileError> {
    let mut sites = [SiteId(0); PARTS];
    for (site, part) in sites.iter_mut().zip(parts) {
        *site = builder.site(&format!("{name}.{part}"))?;
    }
    Ok(sites)
}

fn norm(
    builder: &mut Builder<'_>,
    config: &T5Config,
    name: &str,
    x: ValueId,
    after: Option<crate::program::instruction::Dropout>,
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
