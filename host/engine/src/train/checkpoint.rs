//! A training's checkpoint: all that it depends on, in one file from which another
//! process goes on and comes to the same bits. What is frozen is not in it.
//!
//! The file is a safetensors file. Of each parameter that trains it has `parameter/NAME`,
//! `first_moment/NAME` and `second_moment/NAME`, and `best/NAME` where the best checkpoint
//! is another one; then what the caller attaches; and as the last 32 bytes, `digest`, the
//! BLAKE3 of all before. Tensors are written and read one after another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::{Engine, EngineError, NamedTensor, OptimizerState};
use crate::files::FileError;
use crate::files::stored::{self, Stored};
use crate::files::write::write_with;
use crate::parameters::Part;
use crate::train::state::TrainerState;

/// Raised whenever what is in the file changes.
const FORMAT: u32 = 1;
/// Bytes of a BLAKE3 digest.
const DIGEST: u64 = 32;
/// Bytes of elements that are written at a time.
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// What precedes a parameter's name: its elements and those that belong to it.
const PARAMETER: &str = "parameter/";
const MOMENTS: [&str; 2] = ["first_moment/", "second_moment/"];
const BEST: &str = "best/";
const ATTACHED: &str = "attached/";

/// Bytes that the caller keeps beside what trains.
pub struct Attachment<'a> {
    pub name: String,
    pub bytes: u64,
    /// So many bytes, in parts.
    pub parts: Box<dyn Iterator<Item = io::Result<Vec<u8>>> + 'a>,
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What the header says in words.
#[derive(Serialize, Deserialize)]
struct Notes {
    format: u32,
    /// Of what trains, by the caller: model, data and settings.
    identity: String,
    trainer: TrainerState,
    optimizer: OptimizerState,
    caller: Value,
}

/// Writes a checkpoint, whole or not at all.
///
/// # Errors
/// A disk that does not take it; reading from the device.
pub fn write(
    path: &Path,
    identity: &str,
    engine: &Engine,
    state: &TrainerState,
    caller: Value,
    attachments: Vec<Attachment<'_>>,
) -> Result<(), CheckpointError> {
    let error = |cause: io::Error| CheckpointError::from(FileError::new(path, cause));
    let notes = Notes {
        format: FORMAT,
        identity: identity.into(),
        trainer: state.clone(),
        optimizer: engine.optimizer_state(),
        caller,
    };
    let best: BTreeMap<&str, &NamedTensor> = match state.is_at_best() {
        true => BTreeMap::new(),
        false => state.best.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
    };
    let header = header(engine, &notes, &best, &attachments).map_err(|cause| error(cause.into()))?;
    write_with(path, |file| {
        let mut file = Hashing { file, hasher: blake3::Hasher::new() };
        file.write_all(&header).map_err(error)?;
        for (block, content) in engine.plans.parameters.blocks.iter().enumerate() {
            if !content.trains() {
                continue;
            }
            let elements = engine.elements(block)?;
            for (place, part) in content.parts.iter().enumerate().filter(|(_, part)| part.trained) {
                file.elements(&elements[part.offset..part.offset + part.elements]).map_err(error)?;
                for moments in engine.moments(block, place)? {
                    file.elements(&moments).map_err(error)?;
                }
                if let Some(best) = best.get(part.name.as_str()) {
                    file.elements(&best.elements).map_err(error)?;
                }
            }
        }
        for attachment in attachments {
            for part in attachment.parts {
                file.write_all(&part.map_err(error)?).map_err(error)?;
            }
        }
        let digest = file.hasher.finalize();
        file.write_all(digest.as_bytes()).map_err(error)
    })
}

/// The length of the header and the header, which says where everything is.
fn header(
    engine: &Engine,
    notes: &Notes,
    best: &BTreeMap<&str, &NamedTensor>,
    attachments: &[Attachment<'_>],
) -> serde_json::Result<Vec<u8>> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "notes": serde_json::to_string(notes)? }));
    let mut end = 0;
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: u64| {
        let start = end;
        end += bytes;
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    };
    for part in trained(engine) {
        let best = best.contains_key(part.name.as_str()).then_some(BEST);
        for kind in [PARAMETER].into_iter().chain(MOMENTS).chain(best) {
            let bytes = part.elements * size_of::<f32>();
            add(format!("{kind}{}", part.name), "F32", &part.shape, bytes as u64);
        }
    }
    for Attachment { name, bytes, .. } in attachments {
        add(format!("{ATTACHED}{name}"), "U8", &[*bytes as usize], *bytes);
    }
    add("digest".into(), "U8", &[DIGEST as usize], DIGEST);
    let mut text = serde_json::to_vec(&header)?;
    // The elements start at a multiple of 8 bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), &text[..]].concat())
}

/// What trains, in the order of the file.
fn trained(engine: &Engine) -> impl Iterator<Item = &Part> {
    engine.plans.parameters.parts().map(|(_, part)| part).filter(|part| part.trained)
}

/// A file, and the digest of what was written to it.
struct Hashing<'a> {
    file: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Hashing<'_> {
    fn elements(&mut self, elements: &[f32]) -> io::Result<()> {
        let mut bytes = vec![0; WRITTEN_AT_ONCE.min(size_of_val(elements))];
        for part in elements.chunks(WRITTEN_AT_ONCE / size_of::<f32>()) {
            let bytes = &mut bytes[..size_of_val(part)];
            for (bytes, element) in bytes.as_chunks_mut().0.iter_mut().zip(part) {
                *bytes = element.to_le_bytes();
            }
            self.write_all(bytes)?;
        }
        Ok(())
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A checkpoint that was written for the same training by this version.
pub struct Checkpoint {
    path: PathBuf,
    notes: Notes,
    tensors: BTreeMap<String, Stored>,
}

impl Checkpoint {
    /// Opens a checkpoint, and looks at every byte of it.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written; it is of another format or another
    /// training.
    pub fn open(path: &Path, identity: &str) -> Result<Checkpoint, FileError> {
        let error = |sentence: String| FileError::new(path, sentence);
        let unreadable = |cause: io::Error| error(format!("the checkpoint cannot be read: {cause}"));
        if !is_whole(path).map_err(unreadable)? {
            return Err(error("the checkpoint is cut or damaged".into()));
        }
        let header = stored::header(path)?;
        let notes = header.metadata("notes").and_then(|text| serde_json::from_str::<Value>(text).ok());
        let notes = notes.filter(|notes| notes["format"] == FORMAT);
        let notes = notes.and_then(|notes| serde_json::from_value::<Notes>(notes).ok());
        let notes = notes.ok_or_else(|| error("another version has written the checkpoint".into()))?;
        if notes.identity != identity {
            return Err(error("the checkpoint is of another cell".into()));
        }
        Ok(Checkpoint { path: path.into(), notes, tensors: header.tensors()?.into_iter().collect() })
    }

    /// What the caller has noted.
    pub fn caller(&self) -> &Value {
        &self.notes.caller
    }

    /// Steps that were done.
    pub fn steps(&self) -> u64 {
        self.notes.trainer.steps
    }

    /// Puts an engine for which [`Self::check`] finds everything where the training was, and
    /// answers the trainer's state.
    ///
    /// # Errors
    /// Reading the file; memory that is not to be had. The engine may have changed then.
    pub fn restore(&self, engine: &mut Engine) -> Result<TrainerState, CheckpointError> {
        let parameters = engine.plans.parameters.clone();
        for (block, content) in parameters.blocks.iter().enumerate().filter(|(_, content)| content.trains()) {
            let mut elements = engine.elements(block)?;
            for (place, part) in content.parts.iter().enumerate().filter(|(_, part)| part.trained) {
                let of_part = &mut elements[part.offset..part.offset + part.elements];
                of_part.copy_from_slice(&self.tensor(PARAMETER, part)?);
                let [first, second] = MOMENTS;
                engine.set_moments(block, place, [self.tensor(first, part)?, self.tensor(second, part)?])?;
            }
            engine.set_elements(block, &elements)?;
        }
        engine.set_optimizer_state(self.notes.optimizer.clone());
        let mut state = self.notes.trainer.clone();
        if state.is_at_best() {
            state.best = engine.trained()?;
        } else if state.best_epoch.is_some() {
            let best = trained(engine).map(|part| {
                let (name, shape) = (part.name.clone(), part.shape.clone());
                Ok(NamedTensor { name, shape, elements: self.tensor(BEST, part)? })
            });
            state.best = best.collect::<Result<_, FileError>>()?;
        }
        Ok(state)
    }

    /// Looks for all that an engine trains.
    ///
    /// # Errors
    /// Something is missing or has another shape.
    pub fn check(&self, engine: &Engine) -> Result<(), FileError> {
        let state = &self.notes.trainer;
        let best = (state.best_epoch.is_some() && !state.is_at_best()).then_some(BEST);
        let kinds: Vec<&str> = [PARAMETER].into_iter().chain(MOMENTS).chain(best).collect();
        let fits = |part: &Part| {
            let stored = |kind: &&str| self.tensors.get(&format!("{kind}{}", part.name));
            kinds.iter().all(|kind| stored(kind).is_some_and(|stored| stored.shape == part.shape))
        };
        match trained(engine).find(|part| !fits(part)) {
            None => Ok(()),
            Some(part) => {
                let sentence = format!("the checkpoint is of another plan, which has no such {}", part.name);
                Err(FileError::new(&self.path, sentence))
            }
        }
    }

    /// A tensor of a parameter.
    fn tensor(&self, kind: &str, part: &Part) -> Result<Vec<f32>, FileError> {
        let name = format!("{kind}{}", part.name);
        let mut elements = vec![0.0; part.elements];
        let stored = self.tensors.get(&name).ok_or_else(|| "is not there".to_string());
        let read = stored.and_then(|stored| stored.load(&mut elements));
        read.map_err(|cause| FileError::new(&self.path, format!("the tensor {name} {cause}")))?;
        Ok(elements)
    }

    /// The names of what the caller has attached.
    pub fn attachments(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(ATTACHED))
    }

    /// Reads what the caller has attached under a name.
    ///
    /// # Errors
    /// There is no such name; reading the file.
    pub fn attachment(&self, name: &str) -> Result<impl BufRead, FileError> {
        let error = |cause: io::Error| FileError::new(&self.path, cause);
        let stored = self.tensors.get(&format!("{ATTACHED}{name}"));
        let range = stored.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?.bytes();
        let mut file = File::open(&self.path).map_err(error)?;
        file.seek(SeekFrom::Start(range.start)).map_err(error)?;
        Ok(BufReader::new(file.take(range.end - range.start)))
    }
}

/// Whether a file ends with the digest of all that is before.
fn is_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let Some(content) = file.metadata()?.len().checked_sub(DIGEST) else { return Ok(false) };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&file).take(content))?;
    let mut digest = [0; DIGEST as usize];
    file.read_exact(&mut digest)?;
    Ok(hasher.finalize() == digest)
}
