//! Bytes that are written once and read in any order: in memory while they are
//! few, in a file without a name when they are many, so that a large data set
//! takes no more memory than a small one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

/// Bytes that are kept in memory at most.
const IN_MEMORY: usize = 1 << 20;

/// Bytes in the order in which they were appended.
#[derive(Debug, Default)]
pub struct Store {
    /// All bytes while there is no file; then those that it still lacks.
    recent: Vec<u8>,
    file: Option<File>,
    in_file: u64,
}

impl Store {
    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        self.in_file + self.recent.len() as u64
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// A folder for temporary files that takes none, or is full.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append_within(bytes, IN_MEMORY)
    }

    fn append_within(&mut self, bytes: &[u8], limit: usize) -> io::Result<()> {
        // A file that is there already takes them in large parts.
        let full = if self.file.is_some() { limit / 16 } else { limit };
        if !self.recent.is_empty() && self.recent.len() + bytes.len() > full {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile()?),
            };
            file.write_all(&self.recent)?;
            self.in_file += self.recent.len() as u64;
            self.recent = Vec::new();
        }
        self.recent.extend_from_slice(bytes);
        Ok(())
    }

    /// Fills `bytes` with those from `start` on.
    ///
    /// # Errors
    /// Reading from the file; a place beyond the end.
    pub fn read(&self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let split = self.in_file.saturating_sub(start).min(bytes.len() as u64) as usize;
        let (stored, recent) = bytes.split_at_mut(split);
        if let (Some(file), false) = (&self.file, stored.is_empty()) {
            file.read_exact_at(stored, start)?;
        }
        let from = (start + split as u64 - self.in_file.min(start + split as u64)) as usize;
        let found = self.recent.get(from..from + recent.len());
        recent.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Reads all bytes in their order.
    pub fn reader(&self) -> impl Read + '_ {
        Reader { store: self, place: 0 }
    }

    /// Bytes that are in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(&self) -> usize {
        self.recent.capacity()
    }
}

struct Reader<'a> {
    store: &'a Store,
    place: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = (self.store.bytes() - self.place).min(bytes.len() as u64) as usize;
        self.store.read(self.place, &mut bytes[..count])?;
        self.place += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_again_in_memory_and_in_the_file() {
        for limit in [0, 7, 64, usize::MAX] {
            let mut store = Store::default();
            let bytes: Vec<u8> = (0..200).collect();
            for part in bytes.chunks(9) {
                store.append_within(part, limit).unwrap();
            }
            assert_eq!((store.bytes(), store.file.is_some()), (200, limit < 200), "{limit}");
            for start in 0..200 {
                for length in [0, 1, 30, 200 - start] {
                    let mut read = vec![0; length.min(200 - start)];
                    store.read(start as u64, &mut read).unwrap();
                    assert_eq!(read, bytes[start..start + read.len()]);
                }
            }
            let mut whole = Vec::new();
            store.reader().read_to_end(&mut whole).unwrap();
            assert_eq!(whole, bytes);
            assert!(store.read(195, &mut [0; 6]).is_err());
            assert!(store.read(300, &mut [0; 1]).is_err());
        }
    }
}
