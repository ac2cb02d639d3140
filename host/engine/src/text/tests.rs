//! Against transformers' own tokenizer; the goldens are written by
//! tests/reference/tokenizer.py.

use std::fs;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    vocabulary: Vec<String>,
    small: Vec<Small>,
    model: Vec<Case>,
}

#[derive(Deserialize)]
struct Small {
    options: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    segments: Vec<String>,
    at_most: usize,
    ids: Vec<u32>,
    token_types: Vec<u32>,
    special: Vec<u32>,
    cut: bool,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer_bert.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn compare(tokenizer: &Tokenizer, cases: &[Case]) {
    assert!(cases.iter().any(|case| case.cut) && cases.iter().any(|case| case.segments.len() == 2));
    for case in cases {
        let segments: Vec<&str> = case.segments.iter().map(String::as_str).collect();
        let encoded = tokenizer.encode(&segments, case.at_most).unwrap();
        let wanted = Encoded {
            ids: case.ids.clone(),
            token_types: case.token_types.clone(),
            special: case.special.iter().map(|&mark| mark == 1).collect(),
            cut: case.cut,
        };
        assert_eq!(encoded, wanted, "{segments:?} in {} tokens", case.at_most);
    }
}

/// A folder with the small vocabulary and a configuration.
fn small_folder(vocabulary: &[String], options: &Map<String, Value>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), vocabulary.join("\n")).unwrap();
    let options = serde_json::to_vec(options).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), options).unwrap();
    folder
}

#[test]
fn a_vocabulary_file_gives_the_ids_of_transformers() {
    let golden = golden();
    for small in &golden.small {
        let folder = small_folder(&golden.vocabulary, &small.options);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        compare(&tokenizer, &small.cases);
        assert_eq!(tokenizer.vocabulary_size(), golden.vocabulary.len());
        let special = tokenizer.special_tokens();
        assert_eq!((special.pad, special.unk, special.cls), (Some(0), Some(1), Some(2)));
        assert_eq!((special.sep, special.mask), (Some(3), Some(4)));
        assert_eq!(tokenizer.files().len(), 2);
    }
}

#[test]
fn truncation_and_padding_of_the_file_do_not_count() {
    let golden = golden();
    let folder = small_folder(&golden.vocabulary, &golden.small[0].options);
    let mut inner = Tokenizer::open(folder.path()).unwrap().inner;
    let truncation = TruncationParams { max_length: 4, ..TruncationParams::default() };
    inner.with_truncation(Some(truncation)).unwrap();
    let strategy = tokenizers::PaddingStrategy::Fixed(32);
    inner.with_padding(Some(tokenizers::PaddingParams { strategy, ..Default::default() }));
    let bytes = inner.to_string(false).unwrap().into_bytes();
    let tokenizer = Tokenizer::from_bytes(&bytes).unwrap();
    compare(&tokenizer, &golden.small[0].cases);
    assert_eq!(tokenizer.ids("the film is not good").unwrap().len(), 5);
    assert_eq!(tokenizer.special_tokens().mask, Some(4));
}

#[test]
fn a_vocabulary_with_upper_case_keeps_it() {
    let golden = golden();
    let folder = small_folder(&golden.vocabulary, &Map::new());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.ids("The").unwrap(), vec![tokenizer.id("The").unwrap()]);
    let lower: Vec<String> = golden
        .vocabulary
        .iter()
        .filter(|piece| !["The", "Film", "É"].contains(&&***piece))
        .cloned()
        .collect();
    let folder = small_folder(&lower, &Map::new());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.ids("The").unwrap(), vec![tokenizer.id("the").unwrap()]);
}

#[test]
fn errors_are_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let message = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("neither tokenizer.json nor vocab.txt"), "{message}");
    fs::write(folder.path().join("vocab.txt"), "the\n[UNK]\n[CLS]\n").unwrap();
    let message = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("vocab.txt has no entry [SEP]"), "{message}");
    fs::write(folder.path().join("tokenizer.json"), "{\"version\": 1").unwrap();
    let message = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json is not a tokenizer"), "{message}");
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let message = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer_config.json is not valid JSON"), "{message}");

    let golden = golden();
    let folder = small_folder(&golden.vocabulary, &golden.small[0].options);
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let message = tokenizer.encode(&["the"], 2).unwrap_err().to_string();
    assert!(message.contains("at most 2 tokens has no room"), "{message}");
    let message = tokenizer.encode(&["a", "a", "a"], 9).unwrap_err().to_string();
    assert!(message.contains("this sequence has 3"), "{message}");
}

/// Runs where HOST_TEST_MODEL names the folder of all-MiniLM-L6-v2.
#[test]
fn a_model_gives_the_ids_of_transformers() {
    let Some(folder) = std::env::var_os("HOST_TEST_MODEL") else {
        eprintln!("skipped: HOST_TEST_MODEL names no model");
        return;
    };
    let folder = PathBuf::from(folder);
    let golden = golden();
    compare(&Tokenizer::open(&folder).unwrap(), &golden.model);
    let older = tempfile::tempdir().unwrap();
    for name in ["vocab.txt", "tokenizer_config.json"] {
        fs::copy(folder.join(name), older.path().join(name)).unwrap();
    }
    let tokenizer = Tokenizer::open(older.path()).unwrap();
    compare(&tokenizer, &golden.model);
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.special_tokens().mask), (30522, Some(103)));
}
