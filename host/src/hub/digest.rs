//! What the hub says that a file's content is: its ETag is the SHA-256 of a large
//! file, and git's SHA-1 of a small one.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// A digest that a content must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Sha256(String),
    /// Of a blob as git names it: over its size and its content.
    Git(String),
    /// A mirror's tag of another kind, which says nothing about the content.
    Unknown,
}

impl Expected {
    /// The digest that an ETag is.
    pub fn of_etag(etag: &str) -> Expected {
        let digits = etag.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match (etag.len(), digits) {
            (64, true) => Expected::Sha256(etag.into()),
            (40, true) => Expected::Git(etag.into()),
            _ => Expected::Unknown,
        }
    }

    /// None where the file's content has the digest; else the digest that it has.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn differing(&self, file: &Path) -> io::Result<Option<String>> {
        let (found, expected) = match self {
            Expected::Sha256(expected) => (digest_of(file, Sha256::new())?, expected),
            Expected::Git(expected) => {
                let size = std::fs::metadata(file)?.len();
                let start = Sha1::new().chain_update(format!("blob {size}\0"));
                (digest_of(file, start)?, expected)
            }
            Expected::Unknown => return Ok(None),
        };
        Ok(Some(found).filter(|found| found != expected))
    }
}

fn digest_of<D: Digest>(file: &Path, mut digest: D) -> io::Result<String> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
    #[test]
    fn digests_are_those_of_their_tools() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "hello\n").unwrap();
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for digest in [sha256, git] {
            assert_eq!(Expected::of_etag(digest).differing(&file).unwrap(), None);
            let other = digest.replace('5', "6");
            assert_eq!(Expected::of_etag(&other).differing(&file).unwrap().as_deref(), Some(digest));
        }
        assert_eq!(Expected::of_etag("d41d8cd98f00b204e9800998ecf8427e-7"), Expected::Unknown);
    }
}
