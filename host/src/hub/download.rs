//! One content, from the hub into the cache: whole, and with the digest that the
//! hub names, or not at all.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use ureq::http::StatusCode;

use super::cache::{Partial, RepositoryCache};
use super::client::{Client, Remote, TRIES, Trouble, pause};
use super::digest::Expected;
use super::error::HubError;
use super::{Address, Progress};

/// Bytes after which a try counts as one that has brought something.
const PROGRESS: u64 = 1 << 20;
/// Times that a whole content may be another one than the hub has named.
const WRONG: u32 = 2;

/// Brings a content where it is not there.
///
/// # Errors
/// A hub that does not give it whole; a content that is not what the hub has
/// said; a disk that does not take it.
pub fn bring(
    client: &Client,
    address: &Address,
    remote: &Remote,
    cache: &RepositoryCache,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    let blob = cache.blob(&remote.etag);
    if is_whole(&blob, remote) {
        return Ok(());
    }
    let waiting = || {
        progress.message(&format!("another process is bringing {}; waiting for it", remote.name));
    };
    let _lock = cache.lock(&remote.etag, waiting)?;
    // Another process may have brought it meanwhile.
    if is_whole(&blob, remote) {
        return Ok(());
    }
    let mut partial = Partial::new(&blob)?;
    receive(&Transfer { client, address, remote }, &mut partial, progress)?;
    partial.keep(&blob)
}

/// Contents are looked at when they come; later their size has to do.
fn is_whole(blob: &Path, remote: &Remote) -> bool {
    let found = std::fs::metadata(blob).map(|metadata| metadata.len());
    found.is_ok_and(|found| remote.size.is_none_or(|size| size == found))
}

struct Transfer<'a> {
    client: &'a Client,
    address: &'a Address,
    remote: &'a Remote,
}

/// Receives a content until it is whole and right.
fn receive(
    transfer: &Transfer<'_>,
    partial: &mut Partial,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    let remote = transfer.remote;
    progress.file(&remote.name, remote.size);
    let (mut failures, mut wrong, mut received) = (0, 0, 0);
    loop {
        let before = received;
        let cause = match transfer.part(partial, &mut received, progress) {
            Ok(()) => match transfer.differing(partial)? {
                None => return Ok(()),
                Some(sentence) => {
                    wrong += 1;
                    if wrong >= WRONG {
                        let (file, what) = (remote.name.clone(), transfer.address.words());
                        return Err(HubError::Wrong { file, what, wrong: sentence });
                    }
                    received = 0;
                    sentence
                }
            },
            Err(Trouble::Final(error)) => return Err(*error),
            Err(Trouble::Passing(cause)) => cause,
        };
        failures = if received >= before + PROGRESS { 0 } else { failures + 1 };
        if failures >= TRIES {
            return Err(HubError::Cut {
                file: remote.name.clone(),
                what: transfer.address.words(),
                received: received.to_string(),
                of: remote.size.map_or("an unknown number of bytes".into(), |size| format!("{size} bytes")),
                cause,
            });
        }
        progress.message(&format!("{}: {cause}; trying again", remote.name));
        pause(failures.saturating_sub(1));
    }
}

impl Transfer<'_> {
    /// Receives from where the last try ended, to the content's end.
    fn part(
        &self,
        partial: &mut Partial,
        received: &mut u64,
        progress: &mut dyn Progress,
    ) -> Result<(), Trouble> {
        let response = self.client.content(self.address, &self.remote.name, *received)?;
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT && {
            let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
            range.is_some_and(|range| range.starts_with(&format!("bytes {received}-")))
        };
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            *received = 0;
            return Err(Trouble::Passing("the hub has no bytes after those that came".into()));
        }
        if !goes_on {
            *received = 0;
        }
        let path = partial.path().to_path_buf();
        let disk = |cause| HubError::Disk { path: path.clone(), cause };
        partial.file.set_len(*received).map_err(disk)?;
        partial.file.seek(SeekFrom::Start(*received)).map_err(disk)?;
        let mut content = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = content.read(&mut buffer).map_err(|error| {
                Trouble::Passing(format!("the connection broke after {received} bytes ({error})"))
            })?;
            if read == 0 {
                break;
            }
            partial.file.write_all(&buffer[..read]).map_err(disk)?;
            *received += read as u64;
            progress.received(*received);
            if self.remote.size.is_some_and(|size| *received > size) {
                break;
            }
        }
        match self.remote.size {
            Some(size) if *received < size => {
                Err(Trouble::Passing(format!("the content ended after {received} of {size} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with a content that came to its end.
    fn differing(&self, partial: &Partial) -> Result<Option<String>, HubError> {
        let disk = |cause| HubError::Disk { path: partial.path().to_path_buf(), cause };
        let found = partial.file.metadata().map_err(disk)?.len();
        if let Some(size) = self.remote.size.filter(|size| *size != found) {
            return Ok(Some(format!("more than its {size} bytes came")));
        }
        let digest = Expected::of_etag(&self.remote.etag).differing(partial.path()).map_err(disk)?;
        Ok(digest.map(|found| format!("its digest is {found} instead of {}", self.remote.etag)))
    }
}
