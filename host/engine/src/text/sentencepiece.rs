//! Tokenizers made of a SentencePiece model (Kudo and Richardson 2018), as the
//! converters of transformers make their fast tokenizers of it.
//!
//! A family keeps the model's pieces in an order of its own: XLM-R and CamemBERT
//! have fairseq's special tokens before them and a mask behind, T5 has sentinels
//! behind, DeBERTa a mask.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, SplitDelimiterBehavior};

use super::{TokenizerError, special_token, unreadable};

/// Names under which checkpoints have the model.
pub const FILES: [&str; 3] = ["spiece.model", "sentencepiece.bpe.model", "spm.model"];

/// The fields that are read of `sentencepiece_model.proto`.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

impl Piece {
    /// Tokens such as `</s>`, which no text makes.
    const CONTROL: i32 = 3;
    /// Tokens that are kept whole wherever a text has them.
    const USER_DEFINED: i32 = 4;

    fn entry(&self) -> (String, f64) {
        (self.piece().to_string(), f64::from(self.score()))
    }
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40", default = "0")]
    unk_id: Option<i32>,
    #[prost(string, optional, tag = "45", default = "<unk>")]
    unk_piece: Option<String>,
}

impl Trainer {
    const UNIGRAM: i32 = 1;
    const PAIRS: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
}

/// How a family lays the pieces out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Deberta,
    XlmRoberta,
    Camembert,
    T5,
}

/// Layouts by the start of `tokenizer_class`, and by `model_type`.
const LAYOUTS: [(&str, &str, Layout); 6] = [
    ("DebertaV2Tokenizer", "deberta-v2", Layout::Deberta),
    ("XLMRobertaTokenizer", "xlm-roberta", Layout::XlmRoberta),
    ("CamembertTokenizer", "camembert", Layout::Camembert),
    ("T5Tokenizer", "t5", Layout::T5),
    ("MT5Tokenizer", "mt5", Layout::T5),
    ("UMT5Tokenizer", "umt5", Layout::T5),
];

impl Layout {
    /// The layout that the tokenizer's settings name, else the one of the model.
    fn find(folder: &Path, settings: &Map<String, Value>) -> Option<Layout> {
        let class = settings.get("tokenizer_class").and_then(Value::as_str).unwrap_or("");
        let by_class = LAYOUTS.iter().find(|(name, _, _)| class.trim_end_matches("Fast") == *name);
        let config = fs::read(folder.join("config.json")).ok();
        let config: Option<Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let model_type = config.as_ref().and_then(|config| config.get("model_type")?.as_str());
        let by_model = LAYOUTS.iter().find(|(_, name, _)| model_type == Some(*name));
        by_class.or(by_model).map(|(_, _, layout)| *layout)
    }

    /// The usual names of special tokens by their roles.
    fn usual(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Layout::Deberta => &[
                ("cls_token", "[CLS]"),
                ("sep_token", "[SEP]"),
                ("unk_token", "[UNK]"),
                ("pad_token", "[PAD]"),
                ("mask_token", "[MASK]"),
            ],
            Layout::XlmRoberta | Layout::Camembert => &[
                ("cls_token", "<s>"),
                ("sep_token", "</s>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Layout::T5 => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
        }
    }

    /// The pieces in the family's order, and the place of the unknown one.
    fn vocabulary(self, model: &Model, sentinels: u64) -> (Vec<(String, f64)>, usize) {
        let named = |names: &[&str]| -> Vec<(String, f64)> {
            names.iter().map(|name| (name.to_string(), 0.0)).collect()
        };
        let pieces = |first: usize| model.pieces.iter().skip(first).map(Piece::entry);
        let unknown = model.trainer.as_ref().map_or(0, Trainer::unk_id) as usize;
        match self {
            Layout::Deberta => (pieces(0).collect(), unknown),
            Layout::XlmRoberta => {
                let mut entries = named(&["<s>", "<pad>", "</s>", "<unk>"]);
                entries.extend(pieces(3).chain(named(&["<mask>"])));
                (entries, 3)
            }
            Layout::Camembert => {
                let mut entries = named(&["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"]);
                // The model's own unknown piece gives way to the one before it.
                entries.push(("<unk>NOTUSED".into(), -100.0));
                entries.extend(pieces(1).chain(named(&["<mask>"])));
                (entries, 3)
            }
            Layout::T5 => {
                let sentinels = (0..sentinels).rev().map(|number| (format!("<extra_id_{number}>"), 0.0));
                (pieces(0).chain(sentinels).collect(), unknown)
            }
        }
    }

    /// What is put around one text, and around two.
    fn templates(self, start: &str, end: &str) -> [String; 2] {
        match self {
            Layout::Deberta => {
                [format!("{start}:0 $A:0 {end}:0"), format!("{start}:0 $A:0 {end}:0 $B:1 {end}:1")]
            }
            Layout::XlmRoberta | Layout::Camembert => {
                [format!("{start} $A {end}"), format!("{start} $A {end} {end} $B {end}")]
            }
            Layout::T5 => [format!("$A {end}"), format!("$A {end} $B {end}")],
        }
    }
}

/// The SentencePiece model of a folder as a tokenizer.
///
/// # Errors
/// A file that is no such model; a family of models whose order of pieces is not
/// known; a special token that there is not.
pub fn build(
    folder: &Path,
    path: &Path,
    settings: &Map<String, Value>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let file = path.display().to_string();
    let wrong = |sentence: String| unreadable(&file, sentence);
    let error = |error: tokenizers::Error| wrong(error.to_string());
    let bytes = super::read(path)?;
    let model = Model::decode(bytes.as_slice())
        .map_err(|cause| wrong(format!("this is no SentencePiece model: {cause}")))?;
    if model.pieces.is_empty() {
        return Err(wrong("this SentencePiece model has no pieces".into()));
    }
    let layout = Layout::find(folder, settings).ok_or_else(|| {
        let known = LAYOUTS.map(|(_, name, _)| name).join(", ");
        wrong(format!(
            "neither tokenizer_class of tokenizer_config.json nor model_type of config.json says how its pieces \
             are numbered; known are {known}"
        ))
    })?;
    let flag = |key: &str, default: bool| settings.get(key).and_then(Value::as_bool).unwrap_or(default);
    let sentinels = settings.get("extra_ids").and_then(Value::as_u64).unwrap_or(100);
    let (vocabulary, unknown) = layout.vocabulary(&model, sentinels);
    let trainer = model.trainer.clone().unwrap_or_default();
    let pieces: ModelWrapper = match trainer.model_type() {
        Trainer::UNIGRAM => Unigram::from(vocabulary.clone(), Some(unknown), false).map_err(error)?.into(),
        Trainer::PAIRS => pairs(&vocabulary, trainer.unk_piece()).map_err(error)?.into(),
        other => return Err(wrong(format!("its type is {other}; Unigram (1) and BPE (2) are supported"))),
    };
    let mut inner = tokenizers::Tokenizer::new(pieces);
    let whole =
        model.pieces.iter().filter(|piece| [Piece::CONTROL, Piece::USER_DEFINED].contains(&piece.kind()));
    for piece in whole {
        let token = AddedToken::from(piece.piece().to_string(), piece.kind() == Piece::CONTROL);
        inner.add_tokens([token.normalized(false)]).map_err(error)?;
    }
    inner
        .with_normalizer(Some(normalizer(layout, &model, flag("do_lower_case", false), &file)?))
        .map_err(error)?;
    let scheme = match (flag("add_prefix_space", true), flag("legacy", true)) {
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
        (false, _) => PrependScheme::Never,
    };
    let metaspace = Metaspace::new('▁', scheme, true);
    inner.with_decoder(Some(metaspace.clone()));
    let punctuation = (layout == Layout::Deberta && flag("split_by_punct", false))
        .then(|| Punctuation::new(SplitDelimiterBehavior::Isolated).into());
    let steps = punctuation.into_iter().chain([metaspace.into()]).collect();
    inner.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    add_special(&mut inner, layout, settings, sentinels).map_err(error)?;
    let name = |role: &str| {
        let usual = layout.usual().iter().find(|(known, _)| *known == role).map_or("", |(_, name)| name);
        special_token(settings, role).unwrap_or(usual).to_string()
    };
    let (start, end) = match layout {
        Layout::T5 => (String::new(), name("eos_token")),
        _ => (name("cls_token"), name("sep_token")),
    };
    let mut special = Vec::new();
    for token in [&start, &end].into_iter().filter(|token| !token.is_empty()) {
        let id = inner.token_to_id(token);
        let id = id.ok_or_else(|| wrong(format!("there is no {token} among its pieces")))?;
        special.push((token.clone(), id));
    }
    let [single, pair] = layout.templates(&start, &end);
    let mut template = TemplateProcessing::builder();
    template.try_single(single).map_err(wrong)?.try_pair(pair).map_err(wrong)?.special_tokens(special);
    let template = template.build().map_err(|cause| wrong(cause.to_string()))?;
    inner.with_post_processor(Some(template));
    Ok(inner)
}

/// The special tokens of a family: they stay whole where a text has them, and those
/// that the pieces lack are numbered after them.
fn add_special(
    inner: &mut tokenizers::Tokenizer,
    layout: Layout,
    settings: &Map<String, Value>,
    sentinels: u64,
) -> tokenizers::Result<()> {
    for (role, usual) in layout.usual() {
        let name = special_token(settings, role).unwrap_or(usual);
        // The space before a masked word belongs to it.
        let before = *role == "mask_token" && layout != Layout::Deberta;
        inner.add_special_tokens([AddedToken::from(name, true).lstrip(before)])?;
    }
    if layout == Layout::T5 {
        let names = (0..sentinels).map(|number| AddedToken::from(format!("<extra_id_{number}>"), true));
        inner.add_special_tokens(names)?;
    }
    Ok(())
}

/// The model's own normalisation of characters, with the family's of white space.
fn normalizer(
    layout: Layout,
    model: &Model,
    lowercase: bool,
    file: &str,
) -> Result<Sequence, TokenizerError> {
    let error = |error: tokenizers::Error| unreadable(file, error);
    let map = model.normalizer.as_ref().map(Normalizer::precompiled_charsmap).filter(|map| !map.is_empty());
    let map = map.map(Precompiled::from).transpose();
    let map = map.map_err(|cause| unreadable(file, format!("its table of characters is broken: {cause}")))?;
    let spaces = |with: &str| Replace::new(ReplacePattern::Regex(" {2,}".into()), with).map_err(error);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    match layout {
        Layout::Deberta => {
            if lowercase {
                steps.push(Lowercase.into());
            }
            steps.push(Strip::new(true, true).into());
            steps.extend(map.map(NormalizerWrapper::from));
            steps.push(spaces(" ")?.into());
        }
        Layout::XlmRoberta | Layout::Camembert | Layout::T5 => {
            steps.extend(map.map(NormalizerWrapper::from));
            steps.extend([Strip::new(false, true).into(), spaces("▁")?.into()]);
        }
    }
    Ok(Sequence::new(steps))
}

/// Byte-pair encoding: each piece is merged of any two others of which it consists,
/// the more probable pieces first.
fn pairs(vocabulary: &[(String, f64)], unknown: &str) -> tokenizers::Result<BPE> {
    let ids: BTreeMap<&str, u32> =
        vocabulary.iter().enumerate().map(|(id, (piece, _))| (piece.as_str(), id as u32)).collect();
    let mut merges = Vec::new();
    for (piece, score) in vocabulary {
        let splits = piece.char_indices().skip(1).map(|(place, _)| piece.split_at(place));
        let mut known: Vec<(u32, u32, &str, &str)> = splits
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        known.sort_unstable();
        merges.extend(known.into_iter().map(|(_, _, left, right)| (score, left, right)));
    }
    // A stable sort that falls, as Python's `sorted(reverse=True)` is one.
    merges.sort_by(|(a, left, right), (b, other_left, other_right)| {
        let lengths = (left.chars().count(), right.chars().count());
        let others = (other_left.chars().count(), other_right.chars().count());
        b.total_cmp(a).then(others.cmp(&lengths))
    });
    let merges = merges.into_iter().map(|(_, left, right)| (left.to_string(), right.to_string())).collect();
    let vocabulary: Vocab = ids.into_iter().map(|(piece, id)| (piece.to_string(), id)).collect();
    BPE::builder().vocab_and_merges(vocabulary, merges).unk_token(unknown.to_string()).fuse_unk(true).build()
}
