//! The cache of a repository, laid out as Python's `huggingface_hub` does:
//!
//! ```text
//! models--OWNER--NAME/
//!   refs/REVISION          the commit that a branch or tag was
//!   blobs/ETAG             contents
//!   snapshots/COMMIT/FILE  links to contents
//! .locks/models--OWNER--NAME/ETAG.lock
//! ```
//!
//! Beside that, `.host/COMMIT.json` keeps the names of a commit's files, so that a
//! machine without network knows what a cache lacks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use hf_hub::Repo;
use host_engine::files::write::write_whole;

use super::error::HubError;

/// The folder of a repository in the cache.
pub struct RepositoryCache {
    pub folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    pub fn new(cache: &Path, repo: &Repo) -> RepositoryCache {
        let name = repo.folder_name();
        RepositoryCache { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision was when it was last asked for.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if let Ok(commit) = fs::read_to_string(self.folder.join("refs").join(revision)) {
            return Some(commit.trim().to_string()).filter(|commit| is_commit(commit));
        }
        (is_commit(revision) && self.snapshot(revision).is_dir()).then(|| revision.to_string())
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Whether a file of a commit is there.
    pub fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// Names of the commit's files that are there, sorted.
    pub fn names(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let (mut names, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                } else if let (true, Ok(name)) = (path.is_file(), path.strip_prefix(&root)) {
                    names.push(name.to_string_lossy().into_owned());
                }
            }
        }
        names.sort();
        names
    }

    /// Names of all files that the commit has at the hub, if that was ever asked.
    pub fn listing(&self, commit: &str) -> Option<Vec<String>> {
        serde_json::from_slice(&fs::read(self.listing_file(commit)).ok()?).ok()
    }

    fn listing_file(&self, commit: &str) -> PathBuf {
        self.folder.join(".host").join(format!("{commit}.json"))
    }

    /// Keeps what the hub has said of a revision.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn remember(&self, revision: &str, commit: &str, names: &[String]) -> Result<(), HubError> {
        let write = |path: PathBuf, content: &[u8]| {
            if fs::read(&path).is_ok_and(|known| known == content) {
                return Ok(());
            }
            write_whole(&path, content)
                .map_err(|error| HubError::Disk { path: error.file, cause: io::Error::other(error.sentence) })
        };
        let listing = serde_json::to_vec(names).unwrap_or_default();
        write(self.listing_file(commit), &listing)?;
        match revision == commit {
            true => Ok(()),
            false => write(self.folder.join("refs").join(revision), commit.as_bytes()),
        }
    }

    /// Holds the right to bring a content, until what is given back is dropped.
    /// `waiting` is called once where another process holds it. None where the
    /// file system has no locks: then two processes bring the same content, each
    /// its own copy, and the later one takes the place of the earlier.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        fs::create_dir_all(&self.locks).map_err(HubError::disk(&self.locks))?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(HubError::disk(&path))?;
        let locked = match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        match locked {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENOLCK) => Ok(None),
            Err(error) => Err(HubError::Disk { path, cause: error }),
        }
    }

    /// Makes a file of a commit out of a content that is there.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        // From snapshots/COMMIT/a/b to blobs: up by each folder of the name and two more.
        let mut target: PathBuf = (0..name.matches('/').count() + 2).map(|_| "..").collect();
        target.extend(["blobs", etag]);
        if fs::read_link(&path).is_ok_and(|known| known == target) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        let temporary = folder.join(format!(".{}.link", unique()));
        std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &path))
            .inspect_err(|_| _ = fs::remove_file(&temporary))
            .map_err(HubError::disk(path))
    }
}

/// A content that is on its way: a file of this process alone, which is removed
/// unless it was kept.
pub struct Partial {
    path: PathBuf,
    pub file: File,
    kept: bool,
}

impl Partial {
    /// # Errors
    /// The cache cannot be written.
    pub fn new(blob: &Path) -> Result<Partial, HubError> {
        let folder = blob.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(HubError::disk(folder))?;
        let name = blob.file_name().unwrap_or_default().to_string_lossy();
        let path = folder.join(format!("{name}.{}.incomplete", unique()));
        let file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(HubError::disk(&path))?;
        Ok(Partial { path, file, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings the content to the disk and gives it its name.
    ///
    /// # Errors
    /// A disk that does not take it.
    pub fn keep(mut self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(HubError::disk(&self.path))?;
        fs::rename(&self.path, blob).map_err(HubError::disk(blob))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A name that no other process and no other part of this one uses.
fn unique() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |now| now.subsec_nanos());
    format!("{}-{}-{nanoseconds}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Whether a text is a whole commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use hf_hub::RepoType;

    use super::*;

    fn cache(folder: &Path) -> RepositoryCache {
        RepositoryCache::new(folder, &Repo::new("a/b".into(), RepoType::Model))
    }

    #[test]
    fn files_of_a_snapshot_are_links_to_contents() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let commit = "c".repeat(40);
        for (name, etag) in [("config.json", "e1"), ("data/train/a.txt", "e2")] {
            let partial = Partial::new(&cache.blob(etag)).unwrap();
            fs::write(partial.path(), name).unwrap();
            partial.keep(&cache.blob(etag)).unwrap();
            assert!(!cache.has(&commit, name));
            cache.link(&commit, name, etag).unwrap();
            cache.link(&commit, name, etag).unwrap();
            assert_eq!(fs::read_to_string(cache.snapshot(&commit).join(name)).unwrap(), name);
        }
        assert_eq!(cache.names(&commit), ["config.json", "data/train/a.txt"]);
        let link = cache.snapshot(&commit).join("data/train/a.txt");
        assert_eq!(fs::read_link(link).unwrap(), PathBuf::from("../../../../blobs/e2"));
        assert!(folder.path().join("models--a--b/blobs/e1").is_file());
        // A content that was lost is one that is not there.
        fs::remove_file(cache.blob("e1")).unwrap();
        assert!(!cache.has(&commit, "config.json"));
    }

    #[test]
    fn a_revision_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let commit = "d".repeat(40);
        assert_eq!((cache.commit("main"), cache.commit(&commit)), (None, None));
        cache.remember("refs/pr/1", &commit, &["config.json".into()]).unwrap();
        assert_eq!(cache.commit("refs/pr/1"), Some(commit.clone()));
        assert_eq!(cache.listing(&commit), Some(vec!["config.json".to_string()]));
        fs::create_dir_all(cache.snapshot(&commit)).unwrap();
        assert_eq!(cache.commit(&commit), Some(commit));
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        drop(Partial::new(&cache.blob("e1")).unwrap());
        assert_eq!(fs::read_dir(cache.folder.join("blobs")).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let held = cache.lock("e1", || panic!("nobody holds it")).unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| cache.lock("e1", || said.send(()).unwrap()).unwrap());
            heard.recv().unwrap();
            drop(held);
        });
    }
}
