//! Against transformers' own tokenizer; the goldens are written by
//! tests/reference/tokenizer.py.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Map;

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
    /// What the tokens make again.
    text: String,
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
        assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{segments:?}");
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
    }
}

#[test]
fn a_vocabulary_with_upper_case_keeps_it() {
    let golden = golden();
    let folder = small_folder(&golden.vocabulary, &Map::new());
    let id = |piece: &str| golden.vocabulary.iter().position(|known| known == piece).unwrap() as u32;
    assert_eq!(Tokenizer::open(folder.path()).unwrap().ids("The"), [id("The")]);
    // Without them the same text is lowercased.
    let upper = ["The", "Film", "É"];
    let lower: Vec<String> = golden
        .vocabulary
        .iter()
        .map(|piece| {
            if upper.contains(&piece.as_str()) {
                format!("##{}", piece.to_lowercase())
            } else {
                piece.clone()
            }
        })
        .collect();
    let folder = small_folder(&lower, &Map::new());
    assert_eq!(Tokenizer::open(folder.path()).unwrap().ids("The"), [id("the")]);
}

#[test]
fn special_tokens_are_those_of_the_configuration() {
    let pieces: Vec<String> = "<p> <u> <c> <e> <m> the".split(' ').map(str::to_owned).collect();
    let options =
        r#"{"unk_token": "<u>", "cls_token": "<c>", "sep_token": {"content": "<e>"}, "mask_token": "<m>"}"#;
    let folder = small_folder(&pieces, &serde_json::from_str(options).unwrap());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.encode(&["the film"], 9).unwrap().ids, [2, 5, 1, 3]);
    assert_eq!(tokenizer.mask_id(), Ok(4));
    let folder = small_folder(&pieces, &Map::new());
    let error = Tokenizer::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("vocab.txt: there is no [UNK] among its pieces"), "{error}");
}

#[test]
fn a_configuration_that_is_no_json_is_a_sentence() {
    let golden = golden();
    let folder = small_folder(&golden.vocabulary, &Map::new());
    fs::write(folder.path().join("tokenizer_config.json"), "{\"do_lower_case\": fals").unwrap();
    let error = Tokenizer::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer_config.json: "), "{error}");
}

/// vocab.json and merges.txt, as roberta-base ships them.
#[test]
fn byte_level_pairs_give_the_ids_of_transformers() {
    let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer_roberta"));
    let goldens: Vec<Small> = serde_json::from_slice(&fs::read(source.join("cases.json")).unwrap()).unwrap();
    assert_eq!(goldens.len(), 2);
    for golden in goldens {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.json", "merges.txt"] {
            fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        let options = serde_json::to_vec(&golden.options).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), options).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        compare(&tokenizer, &golden.cases);
        assert_eq!(tokenizer.mask_id(), Ok(4));
    }
}

#[derive(Deserialize)]
struct OfSentencePiece {
    layout: String,
    model: String,
    options: Map<String, Value>,
    size: usize,
    cases: Vec<Case>,
}

fn sentencepiece_source() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokenizer_sentencepiece"))
}

/// A folder with a SentencePiece model under the name that checkpoints give it.
fn sentencepiece_folder(
    model: &str,
    name: &str,
    model_type: &str,
    options: &Map<String, Value>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(sentencepiece_source().join(model), folder.path().join(name)).unwrap();
    let config = serde_json::json!({ "model_type": model_type });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), serde_json::to_vec(options).unwrap()).unwrap();
    folder
}

/// spm.model, sentencepiece.bpe.model and spiece.model, as the families ship them;
/// the goldens are written by tests/reference/sentencepiece_models.py.
#[test]
fn sentencepiece_models_give_the_ids_of_transformers() {
    let names = ["deberta", "deberta_lower", "xlm_roberta", "camembert", "camembert_pairs", "t5", "t5_newer"];
    for name in names {
        let path = sentencepiece_source().join(format!("{name}.json"));
        let golden: OfSentencePiece = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let (file, model_type, mask) = match golden.layout.as_str() {
            "deberta" => ("spm.model", "deberta-v2", Some("[MASK]")),
            "xlm_roberta" => ("sentencepiece.bpe.model", "xlm-roberta", Some("<mask>")),
            "camembert" => ("sentencepiece.bpe.model", "camembert", Some("<mask>")),
            _ => ("spiece.model", "t5", None),
        };
        let folder = sentencepiece_folder(&golden.model, file, model_type, &golden.options);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        compare(&tokenizer, &golden.cases);
        assert_eq!(tokenizer.vocabulary_size(), golden.size, "{name}");
        assert_eq!(
            tokenizer.mask_id().ok(),
            mask.and_then(|mask| tokenizer.inner.token_to_id(mask)),
            "{name}"
        );
        assert_eq!(tokenizer.mask_id().is_ok(), mask.is_some(), "{name}");
    }
}

#[test]
fn a_sentencepiece_model_of_no_use_is_a_sentence() {
    let none = Map::new();
    let error = |folder: &tempfile::TempDir| Tokenizer::open(folder.path()).err().unwrap().to_string();
    let folder = sentencepiece_folder("fairseq.model", "spiece.model", "gpt2", &none);
    assert!(
        error(&folder).contains("says how its pieces are numbered; known are deberta-v2"),
        "{}",
        error(&folder)
    );
    // The tokenizer's own word goes before the model's.
    let class = serde_json::json!({ "tokenizer_class": "XLMRobertaTokenizerFast" });
    let folder = sentencepiece_folder("fairseq.model", "spiece.model", "gpt2", class.as_object().unwrap());
    assert_eq!(Tokenizer::open(folder.path()).unwrap().encode(&[""], 8).unwrap().ids, [0, 2]);
    let folder = sentencepiece_folder("fairseq.model", "spiece.model", "t5", &none);
    let path = folder.path().join("spiece.model");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(error(&folder).contains("spiece.model: this is no SentencePiece model"), "{}", error(&folder));
    fs::write(&path, "").unwrap();
    assert!(error(&folder).contains("has no pieces"), "{}", error(&folder));
}

#[test]
fn special_tokens_that_the_pieces_lack_are_numbered_after_them() {
    let folder = sentencepiece_folder("t5.model", "spm.model", "deberta-v2", &Map::new());
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let first = tokenizer.vocabulary_size() as u32 - 5;
    assert_eq!(tokenizer.encode(&[""], 8).unwrap().ids, [first, first + 1]);
    assert_eq!(tokenizer.mask_id(), Ok(first + 4));
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
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.mask_id()), (30522, Ok(103)));
}

/// Cut by one text alone, and read in windows; written by tests/reference/windows.py.
#[test]
fn windows_are_those_of_transformers() {
    #[derive(Deserialize)]
    struct Windows {
        texts: [String; 2],
        limit: usize,
        stride: Option<usize>,
        side: String,
        ids: Vec<Vec<u32>>,
        types: Vec<Vec<u32>>,
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let cases: Vec<Windows> =
        serde_json::from_slice(&fs::read(PathBuf::from(root).join("windows.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::open(&PathBuf::from(root).join("bert/checkpoint")).unwrap();
    for case in &cases {
        let side = match case.side.as_str() {
            "left" => TruncationDirection::Left,
            _ => TruncationDirection::Right,
        };
        let texts = [case.texts[0].as_str(), case.texts[1].as_str()];
        let pieces = tokenizer.encode_cutting(&texts, case.limit, (1, side), case.stride).unwrap();
        let (ids, types): (Vec<_>, Vec<_>) =
            pieces.into_iter().map(|piece| (piece.ids, piece.token_types)).unzip();
        assert_eq!((&ids, &types), (&case.ids, &case.types));
    }
    assert!(cases.iter().any(|case| case.ids.len() > 3) && cases.iter().any(|case| case.side == "left"));
}
