//! Texts to token ids and back to what the model must know of them: special
//! tokens, segments, and what was cut.
//!
//! The `tokenizers` crate does the work. What this module adds is where the
//! tokenizer comes from (tokenizer.json, or the vocab.txt of an older BERT),
//! that padding and truncation of the file do not count, and the ids of the
//! special tokens.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy, truncate_encodings};
use tokenizers::{AddedToken, Encoding, PostProcessor};

/// What can go wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error(
        "there is no tokenizer in {}: neither tokenizer.json nor vocab.txt is there; name a folder \
         that has one of them", .folder.display()
    )]
    Missing { folder: PathBuf },
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not a tokenizer of the `tokenizers` library: {reason}")]
    Invalid { origin: String, reason: String },
    #[error("{} is not valid JSON: {source}", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(
        "{} has no entry {token}, which the tokenizer of BERT needs; the special tokens can be \
         named in tokenizer_config.json", .path.display()
    )]
    NoSpecialToken { path: PathBuf, token: String },
    #[error("the tokenizer joins one or two texts to a sequence, and this sequence has {segments}")]
    Segments { segments: usize },
    #[error(
        "a sequence of at most {at_most} tokens has no room for a text beside its {special} special \
         tokens; allow more tokens"
    )]
    TooShort { at_most: usize, special: usize },
    #[error("the tokenizer failed on the text {text:?}: {reason}")]
    Failed { text: String, reason: String },
}

/// A sequence as the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// [tokens].
    pub ids: Vec<u32>,
    /// [tokens]: the segment, as the tokenizer's template numbers it.
    pub token_types: Vec<u32>,
    /// [tokens]: whether the template has put the token there.
    pub special: Vec<bool>,
    /// Whether the texts were longer than what was allowed.
    pub cut: bool,
}

/// The ids of special tokens, where the vocabulary has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub cls: Option<u32>,
    pub sep: Option<u32>,
    pub pad: Option<u32>,
    pub mask: Option<u32>,
    pub unk: Option<u32>,
}

/// A tokenizer with its special tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    files: Vec<PathBuf>,
}

/// Configuration files that may name special tokens; the later one decides.
const CONFIGURATIONS: [&str; 2] = ["special_tokens_map.json", "tokenizer_config.json"];

impl Tokenizer {
    /// The tokenizer of a checkpoint's folder: tokenizer.json, or else BERT's
    /// WordPiece over vocab.txt with `do_lower_case`, `strip_accents` and
    /// `tokenize_chinese_chars` of tokenizer_config.json. Where that file does
    /// not say `do_lower_case`, text is lowercased unless the vocabulary has
    /// pieces in upper case.
    pub fn open(folder: &Path) -> Result<Tokenizer, TextError> {
        let mut files = Vec::new();
        let mut named = Map::new();
        for name in CONFIGURATIONS {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let entries: Map<String, Value> = serde_json::from_slice(&read(&path)?)
                .map_err(|source| TextError::Json { path: path.clone(), source })?;
            // The older files write null for what they leave to the class.
            named.extend(entries.into_iter().filter(|(_, value)| !value.is_null()));
            files.push(path);
        }
        let whole = folder.join("tokenizer.json");
        let vocabulary = folder.join("vocab.txt");
        let inner = if whole.is_file() {
            let inner = parse(&read(&whole)?, &whole.display().to_string())?;
            files.push(whole);
            inner
        } else if vocabulary.is_file() {
            let inner = word_piece(&vocabulary, &named)?;
            files.push(vocabulary);
            inner
        } else {
            return Err(TextError::Missing { folder: folder.to_path_buf() });
        };
        Tokenizer::new(inner, &named, files)
    }

    /// The tokenizer of a tokenizer.json held in memory.
    pub fn from_bytes(tokenizer_json: &[u8]) -> Result<Tokenizer, TextError> {
        let origin = "the embedded tokenizer.json";
        Tokenizer::new(parse(tokenizer_json, origin)?, &Map::new(), Vec::new())
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        named: &Map<String, Value>,
        files: Vec<PathBuf>,
    ) -> Result<Tokenizer, TextError> {
        let invalid = |reason: tokenizers::Error| TextError::Invalid {
            origin: "the tokenizer".into(),
            reason: reason.to_string(),
        };
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        let find = |role: &str, usual: &[&str]| {
            special_token(named, role)
                .into_iter()
                .chain(usual.iter().copied())
                .find_map(|token| inner.token_to_id(token))
        };
        let special = SpecialTokens {
            cls: find("cls_token", &["[CLS]", "<s>"]),
            sep: find("sep_token", &["[SEP]", "</s>"]),
            pad: find("pad_token", &["[PAD]", "<pad>"]),
            mask: find("mask_token", &["[MASK]", "<mask>"]),
            unk: find("unk_token", &["[UNK]", "<unk>"]),
        };
        Ok(Tokenizer { inner, special, files })
    }

    /// The files that it was read from, by which it can be digested.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub fn special_tokens(&self) -> SpecialTokens {
        self.special
    }

    /// The id of an entry of the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids of a text, without special tokens.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(self.segment(text)?.get_ids().to_vec())
    }

    /// Special tokens of a sequence of one segment, or of two.
    pub fn special_count(&self, segments: usize) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(segments == 2))
    }

    /// One or two segments with special tokens, at most `at_most` tokens. What
    /// is longer is cut at the end, token by token of the longer segment, as
    /// transformers' `truncation="longest_first"` does.
    pub fn encode(&self, segments: &[&str], at_most: usize) -> Result<Encoded, TextError> {
        let (first, second) = match segments {
            [first] => (self.segment(first)?, None),
            [first, second] => (self.segment(first)?, Some(self.segment(second)?)),
            _ => return Err(TextError::Segments { segments: segments.len() }),
        };
        let special = self.special_count(segments.len());
        if at_most <= special {
            return Err(TextError::TooShort { at_most, special });
        }
        let failed = |reason: tokenizers::Error| TextError::Failed {
            text: excerpt(&segments.join(" ")),
            reason: reason.to_string(),
        };
        let tokens = first.len() + second.as_ref().map_or(0, Encoding::len);
        let limit = TruncationParams {
            max_length: at_most - special,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        let (first, second) = truncate_encodings(first, second, &limit).map_err(failed)?;
        let joined = self.inner.post_process(first, second, true).map_err(failed)?;
        Ok(Encoded {
            ids: joined.get_ids().to_vec(),
            token_types: joined.get_type_ids().to_vec(),
            special: joined.get_special_tokens_mask().iter().map(|&mark| mark == 1).collect(),
            cut: tokens > limit.max_length,
        })
    }

    fn segment(&self, text: &str) -> Result<Encoding, TextError> {
        self.inner
            .encode_fast(text, false)
            .map_err(|reason| TextError::Failed { text: excerpt(text), reason: reason.to_string() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TextError> {
    fs::read(path).map_err(|source| TextError::Unreadable { path: path.to_path_buf(), source })
}

fn parse(tokenizer_json: &[u8], origin: &str) -> Result<tokenizers::Tokenizer, TextError> {
    tokenizers::Tokenizer::from_bytes(tokenizer_json)
        .map_err(|reason| TextError::Invalid { origin: origin.into(), reason: reason.to_string() })
}

/// The start of a text, short enough for an error.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The token that a configuration names for a role: a string, or an object
/// with the string as its content.
fn special_token<'a>(named: &'a Map<String, Value>, role: &str) -> Option<&'a str> {
    match named.get(role)? {
        Value::String(token) => Some(token),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}

/// BERT's tokenizer (Devlin et al. 2019) over a vocab.txt, an entry a line.
fn word_piece(path: &Path, named: &Map<String, Value>) -> Result<tokenizers::Tokenizer, TextError> {
    let invalid = |reason: tokenizers::Error| TextError::Invalid {
        origin: path.display().to_string(),
        reason: reason.to_string(),
    };
    let vocabulary = WordPiece::read_bytes(&read(path)?).map_err(invalid)?;
    let token = |role: &str, usual: &str| -> Result<(String, u32), TextError> {
        let token = special_token(named, role).unwrap_or(usual);
        match vocabulary.get(token) {
            Some(&id) => Ok((token.to_owned(), id)),
            None => Err(TextError::NoSpecialToken { path: path.to_path_buf(), token: token.to_owned() }),
        }
    };
    let (unk, cls, sep) =
        (token("unk_token", "[UNK]")?, token("cls_token", "[CLS]")?, token("sep_token", "[SEP]")?);
    let also = [token("pad_token", "[PAD]"), token("mask_token", "[MASK]")];
    let specials: Vec<AddedToken> = [&unk, &cls, &sep]
        .into_iter()
        .chain(also.iter().flatten())
        .map(|(token, _)| AddedToken::from(token.clone(), true))
        .collect();
    let flag = |key: &str| named.get(key).and_then(Value::as_bool);
    let cased = || {
        let is_special = |piece: &str| specials.iter().any(|token| token.content == piece);
        let plain = |piece: &str| !piece.starts_with('[') && !is_special(piece);
        vocabulary.keys().any(|piece| plain(piece) && piece.chars().any(char::is_uppercase))
    };
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or_else(|| !cased()),
    );
    let model = WordPiece::builder().vocab(vocabulary).unk_token(unk.0).build().map_err(invalid)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_normalizer(Some(normalizer)).map_err(invalid)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_post_processor(Some(BertProcessing::new(sep, cls)));
    inner.add_special_tokens(specials).map_err(invalid)?;
    Ok(inner)
}

#[cfg(test)]
mod tests;
