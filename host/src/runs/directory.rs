//! A run's directory: its lock, its cells, what earlier runs left in it.
//!
//! ```text
//! runs/NAME/
//!   config.toml         the resolved config of the last run
//!   comparison.{csv,json,md}, report.html
//!   cells/LABEL-sSEED-DIGEST/   one cell
//!   earlier/1/ …        config and comparison of earlier runs with other configs
//!   lock                the process that is running, while it is
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::identity::short;
use super::machine::Machine;
use super::record::{CHECKPOINT, FAILURE, Finished, RESULT, remove, write_whole};
use crate::cell::CellSpec;

const CONFIG: &str = "config.toml";
/// What is written anew at the end of each run.
pub const COMPARISON_FILES: [&str; 4] = ["comparison.csv", "comparison.json", "comparison.md", "report.html"];

/// A run's directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct RunDirectory {
    pub path: PathBuf,
    /// Locked; the lock ends with the process, however it ends.
    lock: File,
}

/// What is in the place of a cell.
#[derive(Debug)]
pub enum Place {
    Finished(Box<Finished>),
    /// It was interrupted and has a checkpoint.
    Begun,
    /// The directory is there and empty. Why what was in it was set aside, if there was
    /// anything.
    Free {
        set_aside: Option<String>,
    },
}

/// Ends of the names under which folders of cells are set aside.
const UNFINISHED: &str = ".unfinished";
const BROKEN: &str = ".broken";

impl RunDirectory {
    /// Makes or opens a run's directory and takes its lock.
    ///
    /// # Errors
    /// Another process has it, or it cannot be written.
    pub fn open(path: &Path) -> Result<RunDirectory> {
        let cannot = || format!("cannot make the run directory {}", path.display());
        fs::create_dir_all(path.join("cells")).with_context(cannot)?;
        let lock = lock(&path.join("lock"))?;
        Ok(RunDirectory { path: path.to_path_buf(), lock })
    }

    /// Where a cell is kept.
    pub fn cell(&self, spec: &CellSpec, identity: &str) -> PathBuf {
        let plain = |c: char| if c.is_alphanumeric() || "._".contains(c) { c } else { '-' };
        let label: String = spec.label.chars().map(plain).collect();
        self.path.join("cells").join(format!("{label}-s{}-{}", spec.seed, short(identity)))
    }

    /// Looks for a cell and makes its place free unless it is finished.
    ///
    /// What a killed run left stays where it has a checkpoint. Else it is set aside under
    /// `NAME.unfinished`, where the next one replaces it; a finished cell of which something is missing or broken, under
    /// `NAME.broken`, where it stays.
    ///
    /// # Errors
    /// The place has another cell's record, or cannot be read or written.
    pub fn place(&self, directory: &Path, identity: &str) -> Result<Place> {
        let mut set_aside = None;
        if directory.join(RESULT).exists() {
            let broken = match Finished::read(directory) {
                Ok(finished) if finished.record.identity != identity => bail!(
                    "{} has the result of another cell ({}); move it away",
                    directory.display(),
                    finished.record.identity
                ),
                Ok(finished) => match finished.incomplete() {
                    None => {
                        remove(&directory.join(CHECKPOINT))?;
                        return Ok(Place::Finished(Box::new(finished)));
                    }
                    Some(sentence) => sentence,
                },
                // What cannot be read at all may be whole.
                Err(error) if unreadable(&error) => return Err(error),
                Err(error) => format!("{error:#}"),
            };
            let free = (1..).map(|number| match number {
                1 => beside(directory, BROKEN),
                _ => beside(directory, &format!("{BROKEN}{number}")),
            });
            let aside = free.into_iter().find(|folder| !folder.exists()).unwrap_or_default();
            move_to(directory, &aside)?;
            set_aside = Some(format!("is broken ({broken}) and now in {}", aside.display()));
        } else if directory.join(CHECKPOINT).exists() {
            remove_half_written(directory)?;
            // Why the last try failed says nothing of this one.
            remove(&directory.join(FAILURE))?;
            return Ok(Place::Begun);
        } else if directory.exists() {
            remove_half_written(directory)?;
            let aside = beside(directory, UNFINISHED);
            if aside.exists() {
                fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
            }
            move_to(directory, &aside)?;
            set_aside = Some("was begun and not finished".into());
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Place::Free { set_aside })
    }

    /// Writes the resolved config. Where an earlier run's is another, that one
    /// and its comparison move to `earlier/N` first.
    pub fn write_config(&self, text: &str) -> Result<Option<PathBuf>> {
        let config = self.path.join(CONFIG);
        let body = |text: &str| text.split_once('\n').map_or(String::new(), |(_, body)| body.to_string());
        let mut moved = None;
        match fs::read_to_string(&config) {
            // The first line is the command, which may differ where nothing else does.
            Ok(earlier) if body(&earlier) != body(text) => {
                let free = (1..).map(|number| self.path.join("earlier").join(number.to_string()));
                let free = free.into_iter().find(|folder| !folder.exists()).unwrap_or_default();
                let cannot = || format!("cannot keep the earlier comparison in {}", free.display());
                fs::create_dir_all(&free).with_context(cannot)?;
                for name in COMPARISON_FILES.iter().chain([&CONFIG]) {
                    if self.path.join(name).exists() {
                        fs::rename(self.path.join(name), free.join(name)).with_context(cannot)?;
                    }
                }
                moved = Some(free);
            }
            _ => {}
        }
        write_whole(&config, text)?;
        Ok(moved)
    }
}

/// The folder beside a cell's with an end to its name.
fn beside(directory: &Path, end: &str) -> PathBuf {
    directory.with_file_name(format!("{}{end}", directory.file_name().unwrap_or_default().to_string_lossy()))
}

fn move_to(directory: &Path, aside: &Path) -> Result<()> {
    fs::rename(directory, aside)
        .with_context(|| format!("cannot move {} to {}", directory.display(), aside.display()))
}

/// Removes checkpoints that a killed process has not finished writing; they may be large.
fn remove_half_written(directory: &Path) -> Result<()> {
    let cannot = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if entry.file_name().to_string_lossy().starts_with(&format!(".{CHECKPOINT}.")) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether an error is the disk's, and says nothing of what a file has.
fn unreadable(error: &anyhow::Error) -> bool {
    let of_disk = |error: &std::io::Error| error.kind() != ErrorKind::InvalidData;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(of_disk))
}

/// Whether a folder was a broken cell's.
fn is_aside(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once(BROKEN).is_some_and(|(_, number)| number.chars().all(|digit| digit.is_ascii_digit()))
}

/// The finished cells of a run's directory, or of one cell's, in the order in
/// which they were finished, which is the config's.
///
/// # Errors
/// There is none, or a record cannot be read.
pub fn finished_cells(path: &Path) -> Result<Vec<Finished>> {
    let read = |directory: &Path| {
        Finished::read(directory).with_context(|| {
            format!(
                "the cell {} cannot be read; `host run` with its config trains it again, or move it away",
                directory.display()
            )
        })
    };
    if path.join(RESULT).exists() {
        return Ok(vec![read(path)?]);
    }
    let cells = path.join("cells");
    let entries = fs::read_dir(&cells)
        .with_context(|| format!("{} is no run directory: it has no folder `cells`", path.display()))?;
    let mut directories: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("cannot read {}", cells.display()))?;
    directories.retain(|directory| directory.join(RESULT).exists() && !is_aside(directory));
    directories.sort();
    if directories.is_empty() {
        bail!("{} has no finished cell", path.display());
    }
    let mut cells: Vec<Finished> =
        directories.iter().map(|directory| read(directory)).collect::<Result<_>>()?;
    cells.sort_by(|a, b| a.record.finished.cmp(&b.record.finished));
    Ok(cells)
}

/// Takes the lock of a run, whose file says who has it.
fn lock(path: &Path) -> Result<File> {
    let cannot = || format!("cannot lock {}", path.display());
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path).with_context(cannot)?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).with_context(cannot)?;
    let directory = path.parent().unwrap_or(path).display();
    let refusal = || {
        let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
        format!(
            "{directory} is in use by {holder}; wait for it, or give this run its own directory with --out"
        )
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!(refusal()),
        // Some file systems of clusters have no locks; there the file alone speaks.
        Err(TryLockError::Error(_)) if alive(&holder, &Machine::this().host) => {
            bail!("{}; if it is gone, remove {}", refusal(), path.display())
        }
        Err(TryLockError::Error(_)) => {}
    }
    file.set_len(0).and_then(|()| file.rewind()).with_context(cannot)?;
    write!(file, "process {} on {}", std::process::id(), Machine::this().host).with_context(cannot)?;
    Ok(file)
}

/// Whether the process that a lock names may still run: on this host by asking,
/// on another one yes.
fn alive(holder: &str, this_host: &str) -> bool {
    let words: Vec<&str> = holder.split_whitespace().collect();
    match words.as_slice() {
        ["process", id, "on", host] if *host == this_host => match id.parse::<libc::pid_t>() {
            // SAFETY: signal 0 only asks whether the process is there.
            Ok(id) => unsafe { libc::kill(id, 0) == 0 },
            Err(_) => false,
        },
        ["process", _, "on", _] => true,
        _ => false,
    }
}

impl Drop for RunDirectory {
    /// An empty lock file names nobody.
    fn drop(&mut self) {
        let _ = self.lock.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::identity::tests::spec;
    use crate::runs::record::{ADAPTER, tests::finished, tests::save, write_json};

    #[test]
    fn a_directory_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let held = RunDirectory::open(folder.path()).unwrap();
        let refused = RunDirectory::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {} on", std::process::id())), "{refused}");
        drop(held);
        RunDirectory::open(folder.path()).unwrap();
    }

    #[test]
    fn thelock_of_a_killed_process_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("lock"), "process 999999999 on node1").unwrap();
        RunDirectory::open(folder.path()).unwrap();
        assert!(!alive("process 999999999 on node1", "node1"));
        assert!(alive(&format!("process {} on node1", std::process::id()), "node1"));
        assert!(alive("process 999999999 on node2", "node1"));
        assert!(!alive("", "node1"));
    }

    #[test]
    fn a_finished_cell_is_recognised_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(folder.path()).unwrap();
        let cell = finished("a b/c", 1, 0.5);
        let directory = run.cell(&cell.record.spec, &cell.record.identity);
        assert_eq!(
            directory.file_name().unwrap().to_str().unwrap(),
            format!("a-b-c-s1-{}", &cell.record.identity[..8])
        );
        assert!(matches!(
            run.place(&directory, &cell.record.identity).unwrap(),
            Place::Free { set_aside: None }
        ));
        write_json(&directory.join(RESULT), &cell.record).unwrap();
        save(&directory, 10);
        assert!(matches!(run.place(&directory, &cell.record.identity).unwrap(), Place::Finished(_)));
        let error = run.place(&directory, "another").unwrap_err().to_string();
        assert!(error.contains("result of another cell"), "{error}");
        assert_eq!(finished_cells(folder.path()).unwrap().len(), 1);
        assert_eq!(finished_cells(&directory).unwrap().len(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(folder.path()).unwrap();
        let directory = run.cell(&spec("a", 1), "0123456789");
        for content in ["first", "second"] {
            run.place(&directory, "0123456789").unwrap();
            fs::write(directory.join("log.txt"), content).unwrap();
        }
        let Place::Free { set_aside: Some(why) } = run.place(&directory, "0123456789").unwrap() else {
            panic!("nothing was set aside")
        };
        assert_eq!(why, "was begun and not finished");
        assert!(!directory.join("log.txt").exists());
        let aside = run.path.join("cells/a-s1-01234567.unfinished/log.txt");
        assert_eq!(fs::read_to_string(aside).unwrap(), "second");
        assert!(finished_cells(folder.path()).unwrap_err().to_string().contains("no finished cell"));
    }

    #[test]
    fn what_has_a_checkpoint_stays_and_a_finished_cell_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(folder.path()).unwrap();
        let record = finished("a", 1, 0.5).record;
        let directory = run.cell(&record.spec, &record.identity);
        fs::create_dir(&directory).unwrap();
        let (checkpoint, half) = (directory.join(CHECKPOINT), directory.join(format!(".{CHECKPOINT}.77")));
        for name in ["log.txt", FAILURE, CHECKPOINT, &format!(".{CHECKPOINT}.77")] {
            fs::write(directory.join(name), "x").unwrap();
        }
        assert!(matches!(run.place(&directory, &record.identity).unwrap(), Place::Begun));
        assert!(directory.join("log.txt").exists() && checkpoint.exists());
        assert!(!half.exists() && !directory.join(FAILURE).exists());
        // Its process was killed before it removed it.
        write_json(&directory.join(RESULT), &record).unwrap();
        save(&directory, 10);
        assert!(matches!(run.place(&directory, &record.identity).unwrap(), Place::Finished(_)));
        assert!(!checkpoint.exists());
    }

    /// A record alone is no cell, and a record that is none blocks none.
    #[test]
    fn a_broken_cell_makes_place_and_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(folder.path()).unwrap();
        let record = finished("a", 1, 0.5).record;
        let directory = run.cell(&record.spec, &record.identity);
        let broken = |what: &str| {
            let Place::Free { set_aside: Some(why) } = run.place(&directory, &record.identity).unwrap()
            else {
                panic!("{what}: nothing was set aside")
            };
            why
        };
        fs::create_dir(&directory).unwrap();
        write_json(&directory.join(RESULT), &record).unwrap();
        save(&directory, 10);
        fs::remove_file(directory.join(ADAPTER)).unwrap();
        let why = broken("no adapter");
        assert!(why.contains("adapter.safetensors cannot be read") && why.ends_with(".broken"), "{why}");
        for text in [&b""[..], b"\xff", b"{\"identity\":"] {
            fs::write(directory.join(RESULT), text).unwrap();
            let why = broken(&String::from_utf8_lossy(text));
            assert!(why.contains("is broken (") && why.contains("result.json"), "{why}");
        }
        let kept = |end: &str| beside(&directory, end);
        assert!(Finished::read(&kept(".broken")).is_ok() && kept(".broken4").join(RESULT).exists());
        let error = finished_cells(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no finished cell"), "{error}");
    }

    #[test]
    fn the_comparison_of_another_config_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::open(folder.path()).unwrap();
        let comparison = folder.path().join("comparison.md");
        assert_eq!(run.write_config("# host run a\nseeds = [1]\n").unwrap(), None);
        fs::write(&comparison, "one").unwrap();
        assert_eq!(run.write_config("# host run b\nseeds = [1]\n").unwrap(), None);
        assert!(comparison.exists());
        let moved = run.write_config("# host run a\nseeds = [2]\n").unwrap().unwrap();
        assert_eq!(fs::read_to_string(moved.join("comparison.md")).unwrap(), "one");
        assert!(!comparison.exists());
        assert!(run.write_config("# host run a\nseeds = [3]\n").unwrap().unwrap().ends_with("earlier/2"));
    }
}
