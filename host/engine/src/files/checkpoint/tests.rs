//! Checkpoints of all kinds, and what is said about broken ones.

use half::{bf16, f16};
use serde_json::{Value, json};

use super::*;

const QUERY: &str = "bert.encoder.layer.0.attention.self.query.weight";
const NORM: &str = "bert.embeddings.LayerNorm.weight";

/// The bytes of a safetensors file with tensors (name, type, shape, data).
fn safetensors(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [data.len(), end] });
        header.insert((*name).to_owned(), entry);
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&Value::Object(header)).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn message(result: Result<Checkpoint, FileError>) -> String {
    match result {
        Ok(_) => panic!("an error is wanted"),
        Err(error) => error.to_string(),
    }
}

/// A folder with a config.json and so many other files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn names_and_types_of_older_checkpoints_are_read() {
    let values = [1.0f32, -2.5, 0.125, 3.0];
    let half: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let brain: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let bytes = safetensors(&[
        ("encoder.layer.0.attention.self.query.weight", "BF16", &[2, 2], brain),
        ("embeddings.LayerNorm.gamma", "F16", &[4], half),
        ("bert.embeddings.LayerNorm.beta", "F32", &[4], floats(&values)),
        ("embeddings.position_ids", "I64", &[1, 1], vec![0; 8]),
        ("cls.predictions.bias", "F32", &[1], floats(&[0.0])),
    ]);
    let folder = folder(&[("model.safetensors", &bytes)]);
    let embedded = Checkpoint::from_bytes(br#"{"model_type": "bert"}"#, bytes.clone()).unwrap();
    let opened = Checkpoint::open(folder.path()).unwrap();
    assert_eq!((opened.files().len(), embedded.files().len()), (2, 0));
    let bias = "bert.embeddings.LayerNorm.bias";
    for checkpoint in [opened, embedded] {
        let tensors = &checkpoint.tensors;
        assert_eq!(checkpoint.configuration.model_type().unwrap(), "bert");
        assert_eq!(tensors.load(QUERY, "bert", &[2, 2]).unwrap(), values);
        assert_eq!(tensors.load(NORM, "bert", &[4]).unwrap(), values);
        assert_eq!(tensors.load(bias, "bert", &[4]).unwrap(), values);
        assert_eq!(tensors.load("embeddings.LayerNorm.bias", "bert", &[4]).unwrap(), values);
        assert_eq!(tensors.extra([QUERY, NORM, bias], "bert"), ["cls.predictions.bias"]);
        assert_eq!(tensors.names().count(), 4);
        assert_eq!(tensors.shape("embeddings.LayerNorm.gamma"), Some(&[4][..]));
    }
}

#[test]
fn large_tensors_are_read_in_parts() {
    let values: Vec<f32> = (0..600_000).map(|n| n as f32).collect();
    let bytes = safetensors(&[("a", "F32", &[3, 200_000], floats(&values))]);
    let checkpoint = Checkpoint::from_bytes(b"{}", bytes).unwrap();
    assert_eq!(checkpoint.tensors.load("a", "bert", &[3, 200_000]).unwrap(), values);
}

#[test]
fn shards_are_one_checkpoint() {
    let first = safetensors(&[(NORM, "F32", &[1], floats(&[1.0]))]);
    let second = safetensors(&[(QUERY, "F32", &[1], floats(&[2.0]))]);
    let mut index = json!({ "weight_map": { NORM: "model-1.safetensors", QUERY: "model-2.safetensors" } });
    let text = index.to_string();
    let named = [("model-1.safetensors", &first[..]), ("model.safetensors.index.json", text.as_bytes())];
    let folder = folder(&named);
    let missing = message(Checkpoint::open(folder.path()));
    assert!(missing.contains("names the file model-2.safetensors, which is not in"), "{missing}");
    assert!(missing.contains("it has: config.json, model-1.safetensors"), "{missing}");
    fs::write(folder.path().join("model-2.safetensors"), second).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors.load(QUERY, "bert", &[1]).unwrap(), [2.0]);
    assert_eq!(checkpoint.files().len(), 4);
    index["weight_map"]["bert.pooler.dense.bias"] = json!("model-1.safetensors");
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let missing = message(Checkpoint::open(folder.path()));
    assert!(missing.contains("has no tensor bert.pooler.dense.bias"), "{missing}");
}

#[test]
fn wrong_folders_are_told() {
    let empty = tempfile::tempdir().unwrap();
    let text = message(Checkpoint::open(empty.path()));
    assert!(text.contains("has no config.json; it is empty"), "{text}");
    let folder = folder(&[("pytorch_model.bin", b"")]);
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("has no model.safetensors; it has: config.json, pytorch_model.bin;"), "{text}");
    let text = message(Checkpoint::open(&folder.path().join("config.json")));
    assert!(text.contains("config.json is not a folder"), "{text}");
    let text = message(Checkpoint::open(&folder.path().join("none")));
    assert!(text.contains("none cannot be read"), "{text}");
}

#[test]
fn broken_files_are_told() {
    let bytes = safetensors(&[(NORM, "F32", &[4], floats(&[1.0; 4]))]);
    let open = |bytes: &[u8]| message(Checkpoint::from_bytes(b"{}", bytes.to_vec()));
    let text = open(&bytes[..bytes.len() - 1]);
    let wanted = bytes.len();
    let sentence =
        format!("is cut short: it has {} bytes and its header promises {wanted}; copy", wanted - 1);
    assert!(text.contains(&sentence), "{text}");
    assert!(open(&bytes[..40]).contains("is cut short: it has 40 bytes"));
    assert!(open(&bytes[..3]).contains("is cut short: it has 3 bytes"));
    assert!(open(b"version https://git-lfs.github.com/spec/v1").contains("pointer of Git LFS"));
    assert!(open(b"PK\x03\x04 a zip archive").contains("not the size of a header"));
    assert!(open(&[&bytes[..], b"more"].concat()).contains("4 bytes more than its header promises"));
    let mut header = bytes.clone();
    header[8] = b'[';
    assert!(open(&header).contains("its header is wrong"));
}

#[test]
fn wrong_tensors_are_told() {
    let bytes = safetensors(&[
        ("bert.encoder.layer.0.attention.self.quary.weight", "F32", &[2], floats(&[1.0; 2])),
        (NORM, "I32", &[2], vec![0; 8]),
    ]);
    let tensors = Checkpoint::from_bytes(b"{}", bytes).unwrap().tensors;
    let load = |name, shape: &[usize]| tensors.load(name, "bert", shape).unwrap_err().to_string();
    let text = load(QUERY, &[2]);
    assert!(text.contains("has no tensor bert.encoder.layer.0.attention.self.query.weight;"), "{text}");
    assert!(text.contains("nearest is bert.encoder.layer.0.attention.self.quary.weight"), "{text}");
    let text = load(NORM, &[3]);
    assert!(text.contains("LayerNorm.weight has the shape [2], and [3] is wanted"), "{text}");
    let text = load(NORM, &[2]);
    assert!(text.contains("LayerNorm.weight is stored as I32; F32, F16 and BF16 can be read"), "{text}");
}

/// Runs where HOST_TEST_MODEL names the folder of all-MiniLM-L6-v2.
#[test]
fn a_model_is_read() {
    let Some(folder) = std::env::var_os("HOST_TEST_MODEL") else {
        eprintln!("skipped: HOST_TEST_MODEL names no model");
        return;
    };
    let checkpoint = Checkpoint::open(Path::new(&folder)).unwrap();
    let size = checkpoint.configuration.whole("hidden_size").unwrap() as usize;
    let query = checkpoint.tensors.load(QUERY, "bert", &[size, size]).unwrap();
    assert!(query.iter().all(|value| value.is_finite()) && query.iter().any(|&value| value != 0.0));
    let elements: usize = checkpoint
        .tensors
        .names()
        .map(|name| checkpoint.tensors.shape(name).map_or(0, |shape| shape.iter().product()))
        .sum();
    assert_eq!(elements, 22_713_216);
}
