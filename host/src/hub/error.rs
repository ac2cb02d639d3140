//! What can go wrong between a name and its files: sentences that say what
//! happened and what helps.

use std::path::PathBuf;

/// Why a repository's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "the hub at {endpoint} cannot be reached ({cause}); a machine without network needs the files \
         beforehand, from `host fetch CONFIG` where there is one, and HF_HUB_OFFLINE=1"
    )]
    Unreachable { endpoint: String, cause: String },
    #[error(
        "the hub at {endpoint} has no {what}, or shows it to those alone who may read it{token}; look for \
         the name there, or set HF_TOKEN to a token that may"
    )]
    NoRepository { endpoint: String, what: String, token: &'static str },
    #[error("{what} has no revision {revision}; its branches and tags are at {page}/refs")]
    NoRevision { what: String, revision: String, page: String },
    #[error(
        "{what} is gated{token}; ask for access at {page}, and set HF_TOKEN to a token of the account that has it"
    )]
    Gated { what: String, page: String, token: &'static str },
    #[error("{what} may not be read ({status}){token}; set HF_TOKEN to a token that may read {page}")]
    Forbidden { what: String, status: u16, page: String, token: &'static str },
    #[error("{what} has no file {file} at {revision}")]
    NoFile { what: String, file: String, revision: String },
    #[error("the hub answered {status} for {url}{said}")]
    Refused { url: String, status: u16, said: String },
    #[error("{url} gave no answer in {tries} tries, the last time because {cause}; try again later")]
    NoAnswer { url: String, tries: u32, cause: String },
    #[error("the answer for {url} is none of a hub: {cause}; is HF_ENDPOINT the address of one?")]
    NoHub { url: String, cause: String },
    #[error("{what} at {revision} lacks {missing}; it has {listing}{advice}")]
    Lacks { what: String, revision: String, missing: String, listing: String, advice: String },
    #[error(
        "{why}, and {folder} has no {missing} of {what} at {revision}; `host fetch CONFIG` brings that on a \
         machine with network, into the cache that HF_HOME or HF_HUB_CACHE names"
    )]
    NotCached { why: String, folder: String, missing: String, what: String, revision: String },
    #[error(
        "{file} of {what} did not come whole: {received} of {of} came, the last time because {cause}; \
         nothing of it was kept"
    )]
    Cut { file: String, what: String, received: String, of: String, cause: String },
    #[error(
        "{file} of {what} is not what the hub says: {wrong}; nothing of it was kept. If another try ends \
         so too, something on the way changes files"
    )]
    Wrong { file: String, what: String, wrong: String },
    #[error("{}: {cause}", path.display())]
    Disk { path: PathBuf, cause: std::io::Error },
}

impl HubError {
    pub fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> HubError {
        let path = path.into();
        move |cause| HubError::Disk { path, cause }
    }
}

/// Names in a row, for sentences; of many the first.
pub fn listed(names: &[String], most: usize) -> String {
    match names.len().saturating_sub(most) {
        _ if names.is_empty() => "no files".into(),
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..most].join(", ")),
    }
}
