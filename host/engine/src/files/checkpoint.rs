//! Reading checkpoints: tensors by the names of transformers, whatever the
//! prefix, the age or the precision of the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::files::pickled::Pickled;
use crate::files::stored::{self, Stored};
use crate::files::{FileError, listing};
use crate::init::Weights;

/// Tensors by their names in the files.
enum Tensors {
    Safetensors(BTreeMap<String, Stored>),
    Pickled(Vec<Pickled>),
}

/// A checkpoint in a folder.
pub struct Checkpoint {
    folder: PathBuf,
    /// Prefix of base parameters in checkpoints with a head, such as `bert.`.
    prefix: &'static str,
    pub config: Map<String, Value>,
    /// Files that hold tensors.
    pub files: Vec<PathBuf>,
    tensors: Tensors,
    /// Names in the file by the names under which they are wanted.
    names: BTreeMap<String, String>,
}

/// The parsed config.json of a folder.
///
/// # Errors
/// The file is missing or no JSON object.
pub fn read_config(folder: &Path) -> Result<Map<String, Value>, FileError> {
    let path = folder.join("config.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(_) if !folder.is_dir() => {
            return Err(FileError::new(
                folder,
                "there is no such folder; a model is a folder with config.json, a tokenizer and model.safetensors",
            ));
        }
        Err(error) => {
            let sentence = format!("{error}; the folder has {}", listing(folder, 6));
            return Err(FileError::new(path, sentence));
        }
    };
    serde_json::from_str(&text).map_err(|error| FileError::new(path, error))
}

/// The tokens of generation that generation_config.json may name in config.json's
/// stead.
const GENERATION: [&str; 4] =
    ["decoder_start_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id"];

/// The parsed config.json of a folder, with the tokens of generation_config.json
/// where there is one.
///
/// # Errors
/// As [`read_config`]; a generation_config.json that is no JSON object.
pub fn read_generation_config(folder: &Path) -> Result<Map<String, Value>, FileError> {
    let mut config = read_config(folder)?;
    let path = folder.join("generation_config.json");
    if let Ok(text) = fs::read_to_string(&path) {
        let generation: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| FileError::new(path, error))?;
        for key in GENERATION {
            if let Some(value) = generation.get(key).filter(|value| !value.is_null()) {
                config.insert(key.into(), value.clone());
            }
        }
    }
    Ok(config)
}

impl Checkpoint {
    /// Opens a folder with config.json and model.safetensors or, where there is
    /// none, pytorch_model.bin; or the shards of either.
    ///
    /// # Errors
    /// A file that is missing, truncated, or holds more than tensors.
    pub fn open(folder: &Path, prefix: &'static str) -> Result<Checkpoint, FileError> {
        let config = read_config(folder)?;
        let files = weight_files(folder)?;
        let pickled = files.iter().any(|file| file.extension().is_some_and(|ending| ending == "bin"));
        let tensors = match pickled {
            true => Tensors::Pickled(files.iter().map(|file| Pickled::open(file)).collect::<Result<_, _>>()?),
            false => {
                let listed = files.iter().map(|file| stored::tensors(file));
                let listed: Vec<_> = listed.collect::<Result<_, _>>()?;
                Tensors::Safetensors(listed.into_iter().flatten().collect())
            }
        };
        let own: Vec<String> = match &tensors {
            Tensors::Safetensors(stored) => stored.keys().cloned().collect(),
            Tensors::Pickled(files) => {
                files.iter().flat_map(|file| file.names().map(String::from).collect::<Vec<_>>()).collect()
            }
        };
        let names = own.into_iter().map(|name| (wanted_name(&name, prefix), name)).collect();
        Ok(Checkpoint { folder: folder.into(), prefix, config, files, tensors, names })
    }

    /// Whether a tensor is there, by the name of transformers.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Tensors of the file that nobody wanted.
    pub fn unused<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Vec<String> {
        let wanted: Vec<&str> = wanted.collect();
        let unused = self
            .names
            .iter()
            .filter(|(name, _)| !wanted.contains(&name.as_str()) && !name.ends_with("position_ids"));
        unused.map(|(_, name)| name.clone()).collect()
    }

    fn error(&self, sentence: String) -> String {
        FileError::new(&self.folder, sentence).to_string()
    }
}

impl Checkpoint {
    /// Whether a tensor is there, by the name of transformers, of the model's shape; of
    /// its file no more is read than what it lists.
    ///
    /// # Errors
    /// It has another shape.
    pub fn fits(&self, name: &str, shape: &[u32]) -> Result<bool, String> {
        let Some(own) = self.names.get(name) else { return Ok(false) };
        let found = match &self.tensors {
            Tensors::Safetensors(stored) => stored.get(own).map(|stored| stored.shape.as_slice()),
            Tensors::Pickled(files) => files.iter().find_map(|file| file.shape(own)),
        };
        found.map_or(Ok(()), |found| self.check_shape(own, found, shape)).map(|()| true)
    }

    /// Refuses a tensor of another shape than the model's.
    fn check_shape(&self, own: &str, found: &[usize], wanted: &[u32]) -> Result<(), String> {
        match found.iter().copied().eq(wanted.iter().map(|&size| size as usize)) {
            true => Ok(()),
            false => Err(self.error(format!(
                "the tensor {own} has the shape {found:?}, and config.json makes it {wanted:?}"
            ))),
        }
    }
}

impl Weights for Checkpoint {
    fn load(&self, name: &str, shape: &[u32], elements: &mut [f32]) -> Result<bool, String> {
        let Some(own) = self.names.get(name) else { return Ok(false) };
        let missing = || self.error(format!("there is no tensor {own}"));
        match &self.tensors {
            Tensors::Safetensors(stored) => {
                let stored = stored.get(own).ok_or_else(missing)?;
                self.check_shape(own, &stored.shape, shape)?;
                let read = stored.load(elements);
                read.map_err(|cause| self.error(format!("the tensor {own} {cause}")))?;
            }
            Tensors::Pickled(files) => {
                let file = files.iter().find(|file| file.names().any(|name| name == own));
                let (found, read) = file.ok_or_else(missing)?.load(own).map_err(|error| error.to_string())?;
                self.check_shape(own, &found, shape)?;
                elements.copy_from_slice(&read);
            }
        }
        Ok(true)
    }

    fn nearest(&self, name: &str) -> String {
        let known: Vec<&str> = self.names.values().map(String::as_str).collect();
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        host_ir::settings::did_you_mean(bare, &known)
    }
}

/// The files that hold the tensors of a folder: model.safetensors or its shards,
/// else pytorch_model.bin or its shards.
///
/// # Errors
/// None of them is there; a shard is missing.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let single = folder.join(name);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(format!("{name}.index.json"));
        if let Ok(text) = fs::read_to_string(&index) {
            return shards(folder, &index, &text);
        }
    }
    let sentence = format!(
        "there is neither model.safetensors nor pytorch_model.bin; the folder has {}",
        listing(folder, 8)
    );
    Err(FileError::new(folder, sentence))
}

/// The files that an index names.
fn shards(folder: &Path, index: &Path, text: &str) -> Result<Vec<PathBuf>, FileError> {
    let parsed: Value = serde_json::from_str(text).map_err(|error| FileError::new(index, error))?;
    let map = parsed.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| FileError::new(index, "there is no weight_map"))?;
    let mut files: Vec<PathBuf> =
        map.values().filter_map(Value::as_str).map(|name| folder.join(name)).collect();
    files.sort();
    files.dedup();
    match files.iter().find(|file| !file.is_file()) {
        Some(missing) => {
            Err(FileError::new(missing, format!("the shard is missing that {} names", index.display())))
        }
        None => Ok(files),
    }
}

/// The name of transformers for a tensor's name in a file: with the prefix,
/// and with `weight` and `bias` for the older `gamma` and `beta` of norms.
fn wanted_name(name: &str, prefix: &str) -> String {
    let renamed = match name.rsplit_once('.') {
        Some((start, "gamma")) => format!("{start}.weight"),
        Some((start, "beta")) => format!("{start}.bias"),
        _ => name.to_string(),
    };
    // DeBERTa's pooler is a part of its head, and has no prefix.
    let pooler = renamed.starts_with("pooler.") && prefix != "deberta.";
    let parts = ["embeddings.", "embeddings_project.", "encoder.", "decoder.", "shared."];
    let is_base = |name: &str| parts.iter().any(|part| name.starts_with(part));
    // T5 has this prefix under some heads and none under others.
    let bare = renamed.strip_prefix("transformer.").filter(|rest| is_base(rest)).unwrap_or(&renamed);
    if pooler || is_base(bare) { format!("{prefix}{bare}") } else { renamed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write::{Precision, write_safetensors};

    fn folder(tensors: &[(&str, &[usize], &[f32])], precision: Precision) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        write_safetensors(&folder.path().join("model.safetensors"), tensors, &BTreeMap::new(), precision)
            .unwrap();
        folder
    }

    fn loaded(checkpoint: &Checkpoint, name: &str, shape: &[u32]) -> Result<Option<Vec<f32>>, String> {
        let mut elements = vec![f32::NAN; shape.iter().product::<u32>() as usize];
        Ok(checkpoint.load(name, shape, &mut elements)?.then_some(elements))
    }

    #[test]
    fn older_names_and_other_precisions_are_read() {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let folder = folder(
                &[
                    ("embeddings.LayerNorm.gamma", &[2], &[1.5, -2.0]),
                    ("bert.pooler.dense.bias", &[1], &[0.25]),
                ],
                precision,
            );
            let checkpoint = Checkpoint::open(folder.path(), "bert.").unwrap();
            assert_eq!(
                loaded(&checkpoint, "bert.embeddings.LayerNorm.weight", &[2]),
                Ok(Some(vec![1.5, -2.0]))
            );
            assert_eq!(loaded(&checkpoint, "bert.pooler.dense.bias", &[1]), Ok(Some(vec![0.25])));
            assert_eq!(loaded(&checkpoint, "classifier.weight", &[1]), Ok(None));
            assert_eq!(
                checkpoint.unused(["bert.pooler.dense.bias"].into_iter()),
                ["embeddings.LayerNorm.gamma"]
            );
        }
    }

    /// One checkpoint serves the heads of both names.
    #[test]
    fn t5s_prefix_is_put_on_and_taken_off() {
        for stored in ["decoder.block.0.layer.0.layer_norm.weight", "shared.weight"] {
            for before in ["", "transformer."] {
                for wanted in ["", "transformer."] {
                    let stored = format!("{before}{stored}");
                    let expected = format!("{wanted}{}", stored.trim_start_matches("transformer."));
                    assert_eq!(wanted_name(&stored, wanted), expected);
                }
            }
        }
        assert_eq!(wanted_name("transformer.h.0.weight", ""), "transformer.h.0.weight");
        assert_eq!(wanted_name("lm_head.weight", "transformer."), "lm_head.weight");
    }

    #[test]
    fn what_does_not_fit_is_a_sentence() {
        let folder = folder(&[("pooler.dense.bias", &[1], &[0.25])], Precision::F32);
        let checkpoint = Checkpoint::open(folder.path(), "bert.").unwrap();
        let error = loaded(&checkpoint, "bert.pooler.dense.bias", &[3]).unwrap_err();
        assert!(
            error.contains("pooler.dense.bias has the shape [1], and config.json makes it [3]"),
            "{error}"
        );
        let path = folder.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
        let error = Checkpoint::open(folder.path(), "bert.").err().unwrap().to_string();
        assert!(error.contains("cut short"), "{error}");
        fs::write(&path, b"not at all").unwrap();
        assert!(
            Checkpoint::open(folder.path(), "bert.")
                .err()
                .unwrap()
                .to_string()
                .contains("no safetensors file")
        );
        fs::remove_file(&path).unwrap();
        let error = Checkpoint::open(folder.path(), "bert.").err().unwrap().to_string();
        assert!(error.contains("neither model.safetensors nor pytorch_model.bin"), "{error}");
        assert!(error.contains("the folder has config.json"), "{error}");
    }

    #[test]
    fn what_another_format_is_is_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join("pytorch_model.bin"), "").unwrap();
        let error = || Checkpoint::open(folder.path(), "bert.").err().unwrap().to_string();
        assert!(error().contains("pytorch_model.bin: this is no file of PyTorch 1.6"), "{}", error());
        let pointer = "version https://git-lfs.github.com/spec/v1\n";
        fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
        assert!(error().contains("pointer of Git LFS"), "{}", error());
    }

    #[test]
    fn shards_are_one_checkpoint() {
        let folder = folder(&[("pooler.dense.bias", &[1], &[0.25])], Precision::F32);
        let whole = folder.path().join("model.safetensors");
        fs::rename(&whole, folder.path().join("model-1.safetensors")).unwrap();
        let index =
            r#"{"weight_map": {"pooler.dense.bias": "model-1.safetensors", "a": "model-2.safetensors"}}"#;
        fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        let error = Checkpoint::open(folder.path(), "bert.").err().unwrap().to_string();
        assert!(error.contains("model-2.safetensors: the shard is missing"), "{error}");
        let second = folder.path().join("model-2.safetensors");
        write_safetensors(&second, &[("a", &[1], &[2.0])], &BTreeMap::new(), Precision::F16).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), "bert.").unwrap();
        assert_eq!(loaded(&checkpoint, "bert.pooler.dense.bias", &[1]), Ok(Some(vec![0.25])));
        assert_eq!(loaded(&checkpoint, "a", &[1]), Ok(Some(vec![2.0])));
        assert_eq!(checkpoint.files.len(), 2);
    }
}
