//! Cells that are named or lie there several times.

use std::path::PathBuf;

use super::record::Finished;
use super::words;

/// The cells, each once in its row, and a sentence about those that were there again: a copy
/// is no further seed.
pub fn without(cells: Vec<Finished>) -> (Vec<Finished>, Option<String>) {
    let mut once: Vec<Finished> = Vec::new();
    let mut copies: Vec<(PathBuf, PathBuf)> = Vec::new();
    for cell in cells {
        let same = |known: &&Finished| {
            known.record.identity == cell.record.identity && known.record.spec.label == cell.record.spec.label
        };
        match once.iter().find(same) {
            Some(known) => copies.push((cell.directory, known.directory.clone())),
            None => once.push(cell),
        }
    }
    let note = copies.first().map(|(copy, known)| {
        let number = words::plural(copies.len() as u64, "cell");
        let what = match copy == known {
            true => format!("{} is named again", copy.display()),
            false => format!("{} is {} again", copy.display(), known.display()),
        };
        format!("left out: {number} with the settings, the data and the seed of another one; {what}")
    });
    (once, note)
}

#[cfg(test)]
mod tests {
    use crate::runs::comparison::Comparison;
    use crate::runs::record::tests::finished;

    /// Copies of a cell have its numbers, and no deviation.
    #[test]
    fn the_same_cell_counts_once() {
        let (first, mut copy) = (finished("alpha", 1, 0.5), finished("alpha", 1, 0.5));
        copy.directory = "runs/x/cells/copy".into();
        let comparison = Comparison::new(vec![first.clone(), finished("alpha", 2, 0.25), copy], None);
        assert_eq!(comparison.rows[0].seeds, [1, 2]);
        assert_eq!((comparison.cells.len(), comparison.notes.len()), (2, 1));
        let note = &comparison.notes[0];
        assert!(note.ends_with("runs/x/cells/copy is runs/x/cells/alpha-s1 again"), "{note}");
        let comparison = Comparison::new(vec![first.clone(), first], None);
        assert_eq!(comparison.rows[0].metrics[0].unwrap().deviation, None);
        assert!(comparison.notes[0].ends_with("runs/x/cells/alpha-s1 is named again"));
    }
}
