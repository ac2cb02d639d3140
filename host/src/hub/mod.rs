//! Models and data sets by their names at the hub, in the cache that Python's
//! `huggingface_hub` uses too.
//!
//! Names, addresses and what the hub lists are the crate `hf-hub`'s. Its own
//! download is not used: it gives a file its name in the cache before anyone has
//! looked whether it is whole (it knows no digests), waits for another process for
//! five seconds and then fails, takes each file of a branch by itself so that two
//! commits may mix, drops the header in which the hub says whether a repository is
//! gated or does not exist, and does not read HF_HUB_OFFLINE, HF_HUB_CACHE and
//! HF_TOKEN. So requests (`client`), contents (`download`) and the cache (`cache`)
//! are here, on the HTTP library that it uses.
//!
//! A repository is taken at one commit: the revision is asked for once, and all
//! files are those of the commit that it is.

mod cache;
mod client;
mod digest;
mod download;
mod error;
mod settings;
mod wanted;

use std::path::Path;

use hf_hub::{Repo, RepoType};

use cache::{RepositoryCache, is_commit};
use client::Client;
use error::listed;
use settings::Settings;

use crate::cell::{Repository, Snapshot};

pub use error::HubError;
pub use wanted::Wanted;

/// Names that an error lists.
const LISTED: usize = 8;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Data,
}

/// A repository at a revision.
struct Address {
    kind: Kind,
    name: String,
    revision: String,
}

impl Address {
    fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Data => RepoType::Dataset,
        };
        Repo::with_revision(self.name.clone(), kind, self.revision.clone())
    }

    fn words(&self) -> String {
        format!("the {}", self.kind_and_name())
    }

    fn kind_and_name(&self) -> String {
        match self.kind {
            Kind::Model => format!("model {}", self.name),
            Kind::Data => format!("data set {}", self.name),
        }
    }

    /// The repository's page for people.
    fn page(&self, endpoint: &str) -> String {
        format!("{endpoint}/{}", self.repo().url())
    }
}

/// Who hears how far it is.
pub trait Progress {
    /// A file of so many bytes begins to come.
    fn file(&mut self, name: &str, bytes: Option<u64>);
    /// So many of its bytes have come.
    fn received(&mut self, bytes: u64);
    /// A sentence that the user should read.
    fn message(&mut self, sentence: &str);
}

/// A repository whose files are in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    pub snapshot: Snapshot,
    /// The files that were wanted.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// The hub, as the environment has it.
pub struct Hub {
    client: Client,
}

impl Hub {
    pub fn from_environment() -> Hub {
        Hub { client: Client::new(Settings::from_environment()) }
    }

    /// The folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.client.settings.cache
    }

    /// The hub's address, or the variable that forbids to ask there.
    pub fn endpoint(&self) -> Result<&str, &'static str> {
        match self.client.settings.offline {
            Some(variable) => Err(variable),
            None => Ok(&self.client.settings.endpoint),
        }
    }

    /// Finds what is wanted of a repository, and brings what of it is not in the
    /// cache. Without network, what the cache has must do.
    ///
    /// # Errors
    /// A name or revision that the hub does not have or not show; files that it
    /// does not have, or not give whole; offline, what the cache lacks.
    pub fn bring(
        &self,
        repository: &Repository,
        wanted: &Wanted<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Brought, HubError> {
        let settings = &self.client.settings;
        let revision = repository.revision.clone().unwrap_or_else(|| "main".into());
        let address = Address { kind: wanted.kind(), name: repository.name.clone(), revision };
        let cache = RepositoryCache::new(&settings.cache, &address.repo());
        if let Some(variable) = settings.offline {
            return cached(&address, &cache, wanted, &format!("{variable} forbids the network"), progress);
        }
        // A commit does not change: where all of it is there, nobody is asked.
        if is_commit(&address.revision)
            && cache.listing(&address.revision).is_some()
            && let Ok(brought) = cached(&address, &cache, wanted, "", &mut Silent)
        {
            return Ok(brought);
        }
        let info = match self.client.info(&address) {
            Ok(info) => info,
            Err(HubError::Unreachable { endpoint, cause }) => {
                let why = format!("the hub at {endpoint} cannot be reached ({cause})");
                let brought = cached(&address, &cache, wanted, &why, progress)?;
                let commit = &brought.snapshot.commit;
                progress.message(&format!("{why}; {} is taken from the cache, at {commit}", address.words()));
                return Ok(brought);
            }
            Err(error) => return Err(error),
        };
        let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
        let odd = |cause: String| HubError::NoHub { url: address.page(&settings.endpoint), cause };
        if !is_commit(&info.sha) {
            return Err(odd(format!("{:?} is no commit", info.sha)));
        }
        if let Some(name) = names.iter().find(|name| !wanted::is_below(name)) {
            return Err(odd(format!("{name:?} is no name of a file")));
        }
        self.bring_commit(&address, &info.sha, &names, &cache, wanted, progress)
    }

    /// Brings what is wanted of the names of a commit.
    fn bring_commit(
        &self,
        address: &Address,
        commit: &str,
        names: &[String],
        cache: &RepositoryCache,
        wanted: &Wanted<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Brought, HubError> {
        let at_commit = Address { kind: address.kind, name: address.name.clone(), revision: commit.into() };
        let mut choice = wanted.choose(names);
        let lacks = |missing: &[String]| HubError::Lacks {
            what: address.words(),
            revision: address.revision.clone(),
            missing: missing.join(" and "),
            listing: listed(names, LISTED),
            advice: wanted.advice(names),
        };
        if !choice.missing.is_empty() {
            return Err(lacks(&choice.missing));
        }
        let mut bring = |files: &[String]| -> Result<(), HubError> {
            for name in files.iter().filter(|name| !cache.has(commit, name)) {
                let remote = self.client.remote(&at_commit, name)?;
                download::bring(&self.client, &at_commit, &remote, cache, progress)?;
                cache.link(commit, name, &remote.etag)?;
            }
            Ok(())
        };
        bring(&choice.files)?;
        if let Some(index) = &choice.index {
            let file = cache.snapshot(commit).join(index);
            let shards = wanted::shards(&file)
                .map_err(|cause| HubError::Disk { path: file, cause: std::io::Error::other(cause) })?;
            let missing: Vec<String> = shards.iter().filter(|name| !names.contains(name)).cloned().collect();
            if !missing.is_empty() {
                return Err(lacks(&missing));
            }
            bring(&shards)?;
            choice.files.extend(shards);
        }
        cache.remember(&address.revision, commit, names)?;
        Ok(brought(cache, commit, choice.files))
    }
}

/// What is wanted, from the cache alone; `why` says why.
fn cached(
    address: &Address,
    cache: &RepositoryCache,
    wanted: &Wanted<'_>,
    why: &str,
    progress: &mut dyn Progress,
) -> Result<Brought, HubError> {
    let lacks = |missing: &[String]| HubError::NotCached {
        why: why.into(),
        folder: cache.folder.display().to_string(),
        missing: missing.join(" and no "),
        what: address.words(),
        revision: address.revision.clone(),
    };
    let Some(commit) = cache.commit(&address.revision) else { return Err(lacks(&["file".into()])) };
    let there = cache.names(&commit);
    // Of what Python alone has brought, nobody has kept the hub's list.
    let listing = cache.listing(&commit);
    let mut choice = wanted.choose(listing.as_ref().unwrap_or(&there));
    let mut missing = std::mem::take(&mut choice.missing);
    let lost = |files: &[String]| -> Vec<String> {
        files.iter().filter(|name| !there.contains(name)).cloned().collect()
    };
    missing.extend(lost(&choice.files));
    if let Some(index) = choice.index.as_ref().filter(|index| there.contains(index)) {
        let shards = wanted::shards(&cache.snapshot(&commit).join(index)).unwrap_or_default();
        missing.extend(lost(&shards));
        choice.files.extend(shards);
    }
    if !missing.is_empty() {
        return Err(lacks(&missing));
    }
    if listing.is_none() {
        progress.message(&format!(
            "the cache does not say which files {} has; {} are taken, and `host fetch CONFIG` brings others that \
             it may have",
            address.words(),
            choice.files.join(", ")
        ));
    }
    Ok(brought(cache, &commit, choice.files))
}

fn brought(cache: &RepositoryCache, commit: &str, files: Vec<String>) -> Brought {
    let folder = cache.snapshot(commit);
    let size = |name: &String| std::fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
    let bytes = files.iter().map(size).sum();
    Brought { snapshot: Snapshot { commit: commit.into(), folder }, files, bytes }
}

/// Nobody.
struct Silent;

impl Progress for Silent {
    fn file(&mut self, _name: &str, _bytes: Option<u64>) {}
    fn received(&mut self, _bytes: u64) {}
    fn message(&mut self, _sentence: &str) {}
}
