//! The embedded model, data and text, as plain folders for the rest of the
//! program. They are written to a cache folder whose name holds the digest of
//! the content, so that no program ever finds another's.

pub mod corpus;
mod encoder_decoder;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host_engine::files::write::write_whole;

use crate::cell::{Repository, Source};

const ENCODER: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../assets/encoder/config.json")),
    ("vocab.txt", include_bytes!("../../assets/encoder/vocab.txt")),
    ("model.safetensors", include_bytes!("../../assets/encoder/model.safetensors")),
];

/// The name of the embedded model with a decoder, which has no weights.
pub const ENCODER_DECODER: &str = "encoder-decoder";

const QUICKSTART: &[(&str, &[u8])] = &[
    ("stsa.fine.train", include_bytes!("../../assets/quickstart/stsa.fine.train")),
    ("stsa.fine.dev", include_bytes!("../../assets/quickstart/stsa.fine.dev")),
    ("stsa.fine.test", include_bytes!("../../assets/quickstart/stsa.fine.test")),
];

/// The folder of a model.
///
/// # Errors
/// A folder that is not there; a name that is not embedded; a cache folder that
/// cannot be written.
pub fn model(source: &Source) -> Result<PathBuf> {
    match source {
        Source::Path(path) if !path.is_dir() => bail!(
            "{}: there is no such folder; model.path is the folder in which the model's config.json lies",
            path.display()
        ),
        Source::Path(path) => Ok(path.clone()),
        Source::Hub(repository) => brought(repository),
        Source::Embedded(None) => written("encoder", ENCODER),
        Source::Embedded(Some(name)) if name == ENCODER_DECODER => {
            let files = encoder_decoder::files();
            let files = files.each_ref().map(|(name, content)| (*name, content.as_bytes()));
            written(ENCODER_DECODER, &files)
        }
        Source::Embedded(Some(name)) => bail!(
            "there is no embedded model called {name}; there are \"embedded\", and \"embedded:{ENCODER_DECODER}\", \
             which has a decoder and no weights (model.reinitialise = true)"
        ),
    }
}

/// The folder of data.
///
/// # Errors
/// As [`model`].
pub fn data(source: &Source) -> Result<PathBuf> {
    match source {
        Source::Path(path) => Ok(path.clone()),
        Source::Hub(repository) => brought(repository),
        Source::Embedded(Some(name)) if name == "quickstart" => written("quickstart", QUICKSTART),
        Source::Embedded(Some(name)) if name == "reviews" => {
            let texts =
                corpus::REVIEWS.map(|(split, count)| (format!("{split}.txt"), corpus::reviews(split, count)));
            let files: Vec<(&str, &[u8])> =
                texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
            written("reviews", &files)
        }
        Source::Embedded(_) => bail!("embedded data are \"embedded:quickstart\" and \"embedded:reviews\""),
    }
}

/// The folder of what the command line has found in the hub's cache.
fn brought(repository: &Repository) -> Result<PathBuf> {
    match &repository.snapshot {
        Some(snapshot) => Ok(snapshot.folder.clone()),
        None => bail!("{} was not brought from the hub before it was wanted", repository.name),
    }
}

/// The folder under which this program keeps what it can make again.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("host")
}

/// A folder of the cache with these files.
///
/// # Errors
/// A cache folder that cannot be written.
pub fn written(name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for (file, content) in files {
        hasher.update(file.as_bytes()).update(&(content.len() as u64).to_le_bytes()).update(content);
    }
    let folder = cache().join(format!("{name}-{}", &hasher.finalize().to_hex()[..16]));
    let is_there =
        |(file, content): &(&str, &[u8])| file_length(&folder.join(file)) == Some(content.len() as u64);
    if !files.iter().all(is_there) {
        for (file, content) in files {
            write_whole(&folder.join(file), content).with_context(|| {
                format!(
                    "{} cannot be written, where this program keeps what it carries; XDG_CACHE_HOME names another \
                     folder for caches",
                    cache().display()
                )
            })?;
        }
    }
    Ok(folder)
}

fn file_length(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the binary carries is what the grammar gives.
    #[test]
    fn the_committed_files_are_those_of_the_generator() {
        for (name, content) in QUICKSTART {
            let split = name.rsplit('.').next().unwrap();
            assert!(
                corpus::labelled(split).as_bytes() == *content,
                "{name} differs from what the generator writes"
            );
        }
        let vocabulary = ENCODER.iter().find(|(name, _)| *name == "vocab.txt").unwrap().1;
        assert!(
            corpus::vocabulary().as_bytes() == vocabulary,
            "vocab.txt differs from what the generator writes"
        );
        let weights = ENCODER.iter().find(|(name, _)| *name == "model.safetensors").unwrap().1;
        assert!(weights.len() <= 3_000_000, "the encoder has {} bytes", weights.len());
    }
}
