//! Text to tokens, through the `tokenizers` crate.

mod built;
mod sentencepiece;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{EncodeInput, Encoding, PaddingParams, TruncationParams};

pub use tokenizers::utils::truncation::TruncationDirection;

/// Why a tokenizer cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error(
        "{folder} has neither tokenizer.json nor vocab.txt, nor vocab.json with merges.txt, nor a SentencePiece model ({}), of which a tokenizer is made",
        sentencepiece::FILES.join(", ")
    )]
    NoFile { folder: String },
    #[error("{file}: {sentence}")]
    Unreadable { file: String, sentence: String },
    #[error("tokens cannot be made text: {sentence}")]
    Undecoded { sentence: String },
    #[error("the tokenizer has no token {token}, which this needs")]
    NoToken { token: &'static str },
}

/// Files of a folder that make its tokenizer, where they are there.
pub const FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    sentencepiece::FILES[0],
    sentencepiece::FILES[1],
    sentencepiece::FILES[2],
];

/// A text as the model reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// The segment of each token.
    pub token_types: Vec<u32>,
    /// Whether the tokenizer added it (`[CLS]`, `[SEP]`).
    pub special: Vec<bool>,
    /// Whether the text was longer.
    pub cut: bool,
}

/// A tokenizer without padding and truncation of its own. Copies share one vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    special_in_single: usize,
    special_in_pair: usize,
    /// The token that stands for a masked one, where there is one.
    mask: Option<u32>,
}

/// Files that may name special tokens, and say how vocab.txt is meant; the
/// later one decides, as in transformers.
const SETTINGS: [&str; 2] = ["special_tokens_map.json", "tokenizer_config.json"];

impl Tokenizer {
    /// The tokenizer of a checkpoint: tokenizer.json where there is one, else
    /// WordPiece from vocab.txt, byte-level pairs from vocab.json and merges.txt, or
    /// what a SentencePiece model says.
    ///
    /// # Errors
    /// None of the files is there, or one cannot be read.
    pub fn open(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let settings = settings(folder)?;
        let json = folder.join("tokenizer.json");
        if json.is_file() {
            return Tokenizer::from_json(&read(&json)?, &settings, &json.display().to_string());
        }
        let vocabulary = folder.join("vocab.txt");
        if vocabulary.is_file() {
            let file = vocabulary.display().to_string();
            let inner = built::word_piece(&read(&vocabulary)?, &settings, &file)?;
            return Tokenizer::finished(inner, &settings, &file);
        }
        let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        if vocabulary.is_file() && merges.is_file() {
            let inner = built::byte_level(&vocabulary, &merges, &settings)?;
            return Tokenizer::finished(inner, &settings, &vocabulary.display().to_string());
        }
        if let Some(path) =
            sentencepiece::FILES.map(|name| folder.join(name)).iter().find(|path| path.is_file())
        {
            let inner = sentencepiece::build(folder, path, &settings)?;
            return Tokenizer::finished(inner, &settings, &path.display().to_string());
        }
        Err(TokenizerError::NoFile { folder: folder.display().to_string() })
    }

    fn from_json(
        bytes: &[u8],
        settings: &Map<String, Value>,
        file: &str,
    ) -> Result<Tokenizer, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes);
        let inner = inner
            .map_err(|error| TokenizerError::Unreadable { file: file.into(), sentence: error.to_string() })?;
        Tokenizer::finished(inner, settings, file)
    }

    fn finished(
        mut inner: tokenizers::Tokenizer,
        settings: &Map<String, Value>,
        file: &str,
    ) -> Result<Tokenizer, TokenizerError> {
        let unreadable = |error: tokenizers::Error| TokenizerError::Unreadable {
            file: file.into(),
            sentence: error.to_string(),
        };
        // What a file has baked in is for its author's batches, not for ours.
        inner.with_padding(None::<PaddingParams>);
        inner.with_truncation(None::<TruncationParams>).map_err(unreadable)?;
        let single = inner.encode("", true).map_err(unreadable)?.len();
        let pair = inner.encode(("", ""), true).map_err(unreadable)?.len();
        let names = special_token(settings, "mask_token").into_iter().chain(["[MASK]", "<mask>"]);
        let mask = names.into_iter().find_map(|name| inner.token_to_id(name));
        let inner = Arc::new(inner);
        Ok(Tokenizer { inner, special_in_single: single, special_in_pair: pair, mask })
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
        self.mask.ok_or(TokenizerError::NoToken { token: "[MASK]" })
    }

    /// A token as it stands in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The ids of a text, without special tokens.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        self.inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// A sentence of the tokenizer.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|error| TokenizerError::Undecoded { sentence: error.to_string() })
    }

    /// Special tokens around one text.
    pub fn special_tokens(&self) -> usize {
        self.special_in_single
    }

    /// The ids of a word that stands after another one.
    pub fn word_ids(&self, word: &str) -> Vec<u32> {
        self.ids(&format!(" {word}"))
    }

    /// Words with the special tokens around them, and the first token of each
    /// word; of one that has none, that of the word before.
    ///
    /// # Errors
    /// A sentence of the tokenizer.
    pub fn encode_words(&self, words: &[String]) -> Result<(Encoded, Vec<u32>), String> {
        // With a space before it, a byte-level word is one within a text.
        let spaced: Vec<String> = words.iter().map(|word| format!(" {word}")).collect();
        let whole = self.inner.encode(spaced, true).map_err(|error| error.to_string())?;
        let mut firsts: Vec<Option<u32>> = vec![None; words.len()];
        for (token, word) in (0..).zip(whole.get_word_ids()) {
            if let Some(first) = word.and_then(|word| firsts.get_mut(word as usize)) {
                first.get_or_insert(token);
            }
        }
        let mut before = 0;
        let firsts = firsts.into_iter().map(|first| {
            before = first.unwrap_or(before);
            before
        });
        let encoded = Encoded {
            ids: whole.get_ids().to_vec(),
            token_types: whole.get_type_ids().to_vec(),
            special: whole.get_special_tokens_mask().iter().map(|&special| special != 0).collect(),
            cut: false,
        };
        Ok((encoded, firsts.collect()))
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
            return Ok(encoded(&full, false));
        }
        self.encode_cut(texts, at_most - special)
    }

    /// As [`Self::encode`], where only one of the texts may be cut. With a stride,
    /// what is cut away stands in further sequences, each of which starts with the
    /// last so many tokens of the one before: transformers' `only_second` (or
    /// `only_first`) with `return_overflowing_tokens`. Where windows are so small
    /// that they would share all of them, they share half.
    ///
    /// # Errors
    /// The other text leaves no room; a sentence of the tokenizer.
    pub fn encode_cutting(
        &self,
        texts: &[&str],
        at_most: usize,
        (cut, side): (usize, TruncationDirection),
        stride: Option<usize>,
    ) -> Result<Vec<Encoded>, String> {
        let whole = self.encode(texts, usize::MAX)?;
        if whole.ids.len() <= at_most {
            return Ok(vec![whole]);
        }
        let plain = |text: &str| self.inner.encode_fast(text, false).map_err(|error| error.to_string());
        let mut parts = texts.iter().map(|text| plain(text)).collect::<Result<Vec<_>, _>>()?;
        let special = if texts.len() == 2 { self.special_in_pair } else { self.special_in_single };
        let others: usize =
            parts.iter().enumerate().filter(|(place, _)| *place != cut).map(|(_, part)| part.len()).sum();
        let room = at_most.saturating_sub(special + others);
        if room == 0 {
            return Err(format!(
                "at most {at_most} tokens leave none for the text that is cut, beside {others} of the other and {special} special ones"
            ));
        }
        // A window has to go on from the one before.
        let stride = stride.map(|stride| if stride < room { stride } else { room / 2 });
        parts[cut].truncate(room, stride.unwrap_or(0), side);
        let mut windows = vec![parts[cut].clone()];
        if stride.is_some() {
            windows.extend(parts[cut].take_overflowing());
        }
        let lost = stride.is_none();
        let encode = |window: Encoding| {
            parts[cut] = without_overflow(window);
            let mut texts = parts.clone().into_iter();
            let (first, second) = (texts.next().unwrap_or_default(), texts.next());
            let whole = self.inner.post_process(first, second, true).map_err(|error| error.to_string())?;
            Ok(encoded(&whole, lost))
        };
        windows.into_iter().map(encode).collect()
    }

    /// As [`Self::encode`], for texts that have to be cut to so many tokens, by
    /// the rule of transformers' `truncation="longest_first"`.
    fn encode_cut(&self, texts: &[&str], room: usize) -> Result<Encoded, String> {
        let plain = |text: &str| self.inner.encode_fast(text, false).map_err(|error| error.to_string());
        let mut parts = texts.iter().map(|text| plain(text)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let limit = TruncationParams { max_length: room, ..TruncationParams::default() };
        let (first, second) = truncate_encodings(first, second, &limit).map_err(|error| error.to_string())?;
        let whole = self.inner.post_process(first, second, true).map_err(|error| error.to_string())?;
        Ok(encoded(&whole, true))
    }
}

fn encoded(whole: &Encoding, cut: bool) -> Encoded {
    Encoded {
        ids: whole.get_ids().to_vec(),
        token_types: whole.get_type_ids().to_vec(),
        special: whole.get_special_tokens_mask().iter().map(|&mask| mask != 0).collect(),
        cut,
    }
}

/// A part of a text by itself: the rest of the text is not put beside it.
fn without_overflow(mut part: Encoding) -> Encoding {
    part.take_overflowing();
    part
}

/// What a folder says about its tokenizer. Nulls leave it to the usual.
///
/// # Errors
/// A file that cannot be read or is no JSON object.
fn settings(folder: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let mut settings = Map::new();
    for name in SETTINGS {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let entries: Map<String, Value> = serde_json::from_slice(&read(&path)?).map_err(|error| {
            TokenizerError::Unreadable { file: path.display().to_string(), sentence: error.to_string() }
        })?;
        settings.extend(entries.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Ok(settings)
}

/// The token that the settings name for a role: a string, or an object with the
/// string as its content.
fn special_token<'a>(settings: &'a Map<String, Value>, role: &str) -> Option<&'a str> {
    match settings.get(role)? {
        Value::Object(token) => token.get("content")?.as_str(),
        token => token.as_str(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    fs::read(path).map_err(|error| unreadable(&path.display().to_string(), error))
}

fn unreadable(file: &str, error: impl ToString) -> TokenizerError {
    TokenizerError::Unreadable { file: file.into(), sentence: error.to_string() }
}

#[cfg(test)]
mod golden;

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

    /// As transformers' `truncation="only_second"` with `return_overflowing_tokens`
    /// and `stride=1`.
    #[test]
    fn only_one_text_is_cut_or_read_in_windows() {
        let folder = folder("{}");
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let texts = ["a good", "a good film s . a"];
        let ids = |side, stride| -> Vec<Vec<u32>> {
            let pieces = tokenizer.encode_cutting(&texts, 8, (1, side), stride).unwrap();
            assert!(pieces.iter().all(|piece| piece.cut == stride.is_none()));
            assert!(pieces.iter().all(|piece| piece.token_types[..4] == [0; 4] && piece.token_types[4] == 1));
            pieces.into_iter().map(|piece| piece.ids).collect()
        };
        use TruncationDirection::{Left, Right};
        // The vocabulary has no word "s" by itself.
        assert_eq!(ids(Right, None), [[2, 5, 6, 3, 5, 6, 7, 3]]);
        assert_eq!(ids(Left, None), [[2, 5, 6, 3, 1, 9, 5, 3]]);
        let windows = ids(Right, Some(1));
        assert_eq!(
            windows,
            [vec![2, 5, 6, 3, 5, 6, 7, 3], vec![2, 5, 6, 3, 7, 1, 9, 3], vec![2, 5, 6, 3, 9, 5, 3]]
        );
        assert_eq!(tokenizer.encode_cutting(&texts, 64, (1, Right), Some(1)).unwrap().len(), 1);
        let narrow = tokenizer.encode_cutting(&texts, 7, (1, Right), Some(9)).unwrap();
        assert_eq!(narrow[1].ids, [2, 5, 6, 3, 6, 7, 3]);
        let error = tokenizer.encode_cutting(&texts, 5, (1, Right), Some(1)).unwrap_err();
        assert!(error.contains("leave none for the text that is cut, beside 2 of the other"), "{error}");
    }

    #[test]
    fn what_is_baked_into_a_file_is_overridden() {
        let folder = folder("{}");
        let mut inner = (*Tokenizer::open(folder.path()).unwrap().inner).clone();
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
