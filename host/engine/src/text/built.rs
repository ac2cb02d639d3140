//! Tokenizers of checkpoints without a tokenizer.json, built from their
//! vocabularies as transformers builds them.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::decoders::wordpiece::WordPiece as WordPieces;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Model};

use super::{TokenizerError, special_token, unreadable};

/// A special token and its id: that of the settings, or the usual one.
fn special(
    model: &impl Model,
    settings: &Map<String, Value>,
    (role, usual): (&str, &str),
    file: &str,
) -> Result<(String, u32), TokenizerError> {
    let name = special_token(settings, role).unwrap_or(usual);
    match model.token_to_id(name) {
        Some(id) => Ok((name.to_string(), id)),
        None => Err(unreadable(file, format!("there is no {name} among its pieces"))),
    }
}

/// BERT's tokenizer over a list of pieces, one a line. Where the settings do
/// not say `do_lower_case`, text is lowercased unless there are pieces in
/// upper case: older checkpoints that keep case do not always say so.
///
/// # Errors
/// A file that is none; a special token that is not among the pieces.
pub fn word_piece(
    bytes: &[u8],
    settings: &Map<String, Value>,
    file: &str,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let error = |error: tokenizers::Error| unreadable(file, error);
    let vocabulary = WordPiece::read_bytes(bytes).map_err(|cause| unreadable(file, cause))?;
    let unknown = special_token(settings, "unk_token").unwrap_or("[UNK]").to_string();
    let model = WordPiece::builder().vocab(vocabulary).unk_token(unknown).build().map_err(error)?;
    let token = |role: &str, usual: &str| special(&model, settings, (role, usual), file);
    let unknown = token("unk_token", "[UNK]")?;
    let (start, end) = (token("cls_token", "[CLS]")?, token("sep_token", "[SEP]")?);
    let others = [token("pad_token", "[PAD]").ok(), token("mask_token", "[MASK]").ok()];
    // They stay whole where a text has them.
    let special: Vec<AddedToken> = [&unknown, &start, &end]
        .into_iter()
        .chain(others.iter().flatten())
        .map(|(name, _)| AddedToken::from(name.clone(), true))
        .collect();
    let cased = model.get_vocab().into_iter().any(|(piece, _)| {
        let bracketed = piece.starts_with('[') || special.iter().any(|token| token.content == piece);
        !bracketed && piece.chars().any(char::is_uppercase)
    });
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    let chinese = flag("tokenize_chinese_chars").unwrap_or(true);
    let lowercase = flag("do_lower_case").unwrap_or(!cased);
    let mut inner = tokenizers::Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, chinese, flag("strip_accents"), lowercase);
    inner.with_normalizer(Some(normalizer)).map_err(error)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(WordPieces::default()));
    inner.with_post_processor(Some(BertProcessing::new(end, start)));
    inner.add_special_tokens(special).map_err(error)?;
    Ok(inner)
}

/// RoBERTa's tokenizer: byte-level pair encoding (Radford et al. 2019) over
/// vocab.json and merges.txt.
///
/// # Errors
/// As [`word_piece`].
pub fn byte_level(
    vocabulary: &Path,
    merges: &Path,
    settings: &Map<String, Value>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let file = vocabulary.display().to_string();
    let error = |error: tokenizers::Error| unreadable(&file, error);
    let (pieces, pairs) = BPE::read_file(&file, &merges.display().to_string()).map_err(error)?;
    let model = BPE::builder().vocab_and_merges(pieces, pairs).build().map_err(error)?;
    let token = |role: &str, usual: &str| special(&model, settings, (role, usual), &file);
    let (start, end) = (token("cls_token", "<s>")?, token("sep_token", "</s>")?);
    let mask = token("mask_token", "<mask>").ok();
    let others = [token("pad_token", "<pad>").ok(), token("unk_token", "<unk>").ok()];
    let plain = [&start, &end].into_iter().chain(others.iter().flatten());
    let mut special: Vec<AddedToken> = plain.map(|(name, _)| AddedToken::from(name.clone(), true)).collect();
    // The space before a masked word belongs to it.
    special.extend(mask.map(|(name, _)| AddedToken::from(name, true).lstrip(true)));
    let space = settings.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(ByteLevel::new(space, true, true)));
    let processing = RobertaProcessing::new(end, start).trim_offsets(true).add_prefix_space(space);
    inner.with_post_processor(Some(processing));
    inner.with_decoder(Some(ByteLevel::default()));
    inner.add_special_tokens(special).map_err(error)?;
    Ok(inner)
}
