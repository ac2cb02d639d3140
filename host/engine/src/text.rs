//! Text to tokens, through the `tokenizers` crate.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{EncodeInput, PaddingParams, TruncationParams};

/// Why a tokenizer cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error("{folder} has neither tokenizer.json nor vocab.txt, of which a tokenizer is made")]
    NoFile { folder: String },
    #[error("{file}: {sentence}")]
    Unreadable { file: String, sentence: String },
    #[error("the tokenizer has no token {token}, which this needs")]
    NoToken { token: &'static str },
}

/// A text as the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// The segment of each token.
    pub token_types: Vec<u32>,
    /// Whether the tokenizer added it ([CLS], [SEP]).
    pub special: Vec<bool>,
    /// Whether the text was longer.
    pub cut: bool,
}

/// A tokenizer without padding and truncation of its own.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special_in_single: usize,
    special_in_pair: usize,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint: tokenizer.json where there is one, else
    /// WordPiece from vocab.txt.
    ///
    /// # Errors
    /// Neither file is there, or one cannot be read.
    pub fn open(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let json = folder.join("tokenizer.json");
        if json.is_file() {
            let bytes = read(&json)?;
            return Tokenizer::from_json(&bytes, &json.display().to_string());
        }
        let vocabulary = folder.join("vocab.txt");
        if vocabulary.is_file() {
            let settings = fs::read(folder.join("tokenizer_config.json")).ok();
            let settings =
                settings.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null);
            return Tokenizer::from_vocabulary(
                &read(&vocabulary)?,
                &settings,
                &vocabulary.display().to_string(),
            );
        }
        Err(TokenizerError::NoFile { folder: folder.display().to_string() })
    }

    fn from_json(bytes: &[u8], file: &str) -> Result<Tokenizer, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes);
        let inner = inner
            .map_err(|error| TokenizerError::Unreadable { file: file.into(), sentence: error.to_string() })?;
        Tokenizer::finished(inner, file)
    }

    /// BERT's tokenizer over a list of pieces, one a line.
    fn from_vocabulary(bytes: &[u8], settings: &Value, file: &str) -> Result<Tokenizer, TokenizerError> {
        let unreadable = |sentence: String| TokenizerError::Unreadable { file: file.into(), sentence };
        let vocabulary = WordPiece::read_bytes(bytes).map_err(|error| unreadable(error.to_string()))?;
        let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
        let model = WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build();
        let mut inner = tokenizers::Tokenizer::new(model.map_err(|error| unreadable(error.to_string()))?);
        let chinese = flag("tokenize_chinese_chars").unwrap_or(true);
        let lowercase = flag("do_lower_case").unwrap_or(true);
        let normalizer = BertNormalizer::new(true, chinese, flag("strip_accents"), lowercase);
        inner.with_normalizer(Some(normalizer)).map_err(|error| unreadable(error.to_string()))?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        let token = |name: &'static str| {
            let id = inner
                .token_to_id(name)
                .ok_or_else(|| unreadable(format!("there is no {name} among its pieces")))?;
            Ok((name.to_string(), id))
        };
        let processing = BertProcessing::new(token("[SEP]")?, token("[CLS]")?);
        inner.with_post_processor(Some(processing));
        Tokenizer::finished(inner, file)
    }

    fn finished(mut inner: tokenizers::Tokenizer, file: &str) -> Result<Tokenizer, TokenizerError> {
        let unreadable = |error: tokenizers::Error| TokenizerError::Unreadable {
            file: file.into(),
            sentence: error.to_string(),
        };
        // What a file has baked in is for its author's batches, not for ours.
        inner.with_padding(None::<PaddingParams>);
        inner.with_truncation(None::<TruncationParams>).map_err(unreadable)?;
        let single = inner.encode("", true).map_err(unreadable)?.len();
        let pair = inner.encode(("", ""), true).map_err(unreadable)?.len();
        Ok(Tokenizer { inner, special_in_single: single, special_in_pair: pair })
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that stands for a masked one.
    ///
    /// # Errors
    /// The tokenizer has none.
    pub fn mask_id(&self) -> Result<u32, TokenizerError> {
        let id = ["[MASK]", "<mask>"].iter().find_map(|token| self.inner.token_to_id(token));
        id.ok_or(TokenizerError::NoToken { token: "[MASK]" })
    }

    /// The ids of a text, without special tokens.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        self.inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// One text or two with the special tokens around them, cut to at most so
    /// many tokens at the end of the longer one.
    ///
    /// # Errors
    /// A sentence of the tokenizer.
    pub fn encode(&self, texts: &[&str], at_most: usize) -> Result<Encoded, String> {
        let input: EncodeInput<'_> = match texts {
            [first, second] => (*first, *second).into(),
            [first] => (*first).into(),
            _ => return Err(format!("a sequence has one text or two, not {}", texts.len())),
        };
        let special = if texts.len() == 2 { self.special_in_pair } else { self.special_in_single };
        if at_most <= special {
            return Err(format!("at most {at_most} tokens leave no room beside the {special} special ones"));
        }
        let full = self.inner.encode_fast(input, true).map_err(|error| error.to_string())?;
        if full.len() <= at_most {
            return Ok(Encoded {
                ids: full.get_ids().to_vec(),
                token_types: full.get_type_ids().to_vec(),
                special: full.get_special_tokens_mask().iter().map(|&mask| mask != 0).collect(),
                cut: false,
            });
        }
        self.encode_cut(texts, at_most - special)
    }

    /// As [`Self::encode`], for texts that have to be cut to so many tokens.
    fn encode_cut(&self, texts: &[&str], room: usize) -> Result<Encoded, String> {
        let plain = |text: &str| self.inner.encode_fast(text, false).map_err(|error| error.to_string());
        let mut parts = texts.iter().map(|text| plain(text)).collect::<Result<Vec<_>, _>>()?;
        let mut lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        while lengths.iter().sum::<usize>() > room {
            let longest = (0..lengths.len()).max_by_key(|&place| (lengths[place], place)).unwrap_or(0);
            lengths[longest] -= 1;
        }
        for (part, &length) in parts.iter_mut().zip(&lengths) {
            part.truncate(length, 0, tokenizers::TruncationDirection::Right);
        }
        let mut parts = parts.into_iter();
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let whole = self.inner.post_process(first, second, true).map_err(|error| error.to_string())?;
        Ok(Encoded {
            ids: whole.get_ids().to_vec(),
            token_types: whole.get_type_ids().to_vec(),
            special: whole.get_special_tokens_mask().iter().map(|&mask| mask != 0).collect(),
            cut: true,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    fs::read(path).map_err(|error| TokenizerError::Unreadable {
        file: path.display().to_string(),
        sentence: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ngood\nfilm\n##s\n.\nna\n##ive\n";

    fn folder(settings: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vocab.txt"), PIECES).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        folder
    }

    #[test]
    fn a_vocabulary_makes_berts_tokenizer() {
        let folder = folder("{}");
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let encoded = tokenizer.encode(&["A good  films. naïve"], 64).unwrap();
        assert_eq!(encoded.ids, [2, 5, 6, 7, 8, 9, 10, 11, 3]);
        assert_eq!(encoded.special.iter().filter(|&&special| special).count(), 2);
        assert_eq!(tokenizer.mask_id(), Ok(4));
        assert_eq!(tokenizer.vocabulary_size(), 12);
        assert_eq!(tokenizer.ids("good bad"), [6, 1]);
        assert_eq!(tokenizer.encode(&[""], 8).unwrap().ids, [2, 3]);
    }

    #[test]
    fn case_is_kept_where_the_settings_say_so() {
        let folder = folder(r#"{"do_lower_case": false}"#);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.ids("A a"), [1, 5]);
    }

    #[test]
    fn long_texts_are_cut_at_the_end_of_the_longer_one() {
        let folder = folder("{}");
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let encoded = tokenizer.encode(&["a good film ."], 4).unwrap();
        assert_eq!((encoded.ids.as_slice(), encoded.cut), ([2, 5, 6, 3].as_slice(), true));
        let pair = tokenizer.encode(&["a a a a", "good"], 6).unwrap();
        assert_eq!(pair.ids, [2, 5, 5, 3, 6, 3]);
        assert_eq!(pair.token_types, [0, 0, 0, 0, 1, 1]);
        assert!(tokenizer.encode(&["a"], 2).unwrap_err().contains("no room"));
    }

    #[test]
    fn what_is_baked_into_a_file_is_overridden() {
        let folder = folder("{}");
        let mut inner = Tokenizer::open(folder.path()).unwrap().inner;
        inner.with_padding(Some(PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(16),
            ..Default::default()
        }));
        inner.with_truncation(Some(TruncationParams { max_length: 3, ..Default::default() })).unwrap();
        inner.save(folder.path().join("tokenizer.json"), false).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.encode(&["a good film"], 64).unwrap().ids, [2, 5, 6, 7, 3]);
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let error = Tokenizer::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("neither tokenizer.json nor vocab.txt"), "{error}");
        fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        assert!(Tokenizer::open(folder.path()).err().unwrap().to_string().contains("tokenizer.json: "));
    }
}
