//! The sum of word, position and token-type embeddings, with the rows of a
//! prompt in the place of words on virtual tokens.

use super::elementwise::add_row;
use super::parallel::{SharedMatrix, Threads, take};
use super::simd::vectorize;

/// Which rows of the tables each row of the batch takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// [sequences + 1]: the first row of each sequence.
    pub starts: &'a [u32],
    /// Rows at the start of each sequence that take the prompt's instead of a
    /// word's embedding, if there is a prompt.
    pub virtual_tokens: u32,
    /// `[rows]` each.
    pub ids: &'a [u32],
    pub positions: &'a [u32],
    pub types: &'a [u32],
    /// What the embeddings of words are multiplied by.
    pub factor: f32,
    /// The word whose embedding gets no gradient.
    pub padding: Option<u32>,
}

/// The tables, each [entries, width]; those that a model lacks are `None`.
/// Without a word table (its embeddings are given otherwise), words add nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables<'a> {
    pub word: Option<&'a [f32]>,
    pub position: Option<&'a [f32]>,
    pub token_type: Option<&'a [f32]>,
    pub prompt: Option<&'a [f32]>,
}

/// The gradients of the tables that train, to which the backward pass adds.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    pub word: Option<&'a mut [f32]>,
    pub position: Option<&'a mut [f32]>,
    pub token_type: Option<&'a mut [f32]>,
    pub prompt: Option<&'a mut [f32]>,
}

impl Lookup<'_> {
    fn rows(&self) -> usize {
        self.starts.last().map_or(0, |&rows| rows as usize)
    }

    /// For each row from `first` on, its row of the prompt, if it has one.
    fn prompt_rows(&self, first: usize) -> impl Iterator<Item = Option<u32>> {
        let mut sequence = self.starts.partition_point(|&start| start as usize <= first).saturating_sub(1);
        (first as u32..).map(move |row| {
            while sequence + 2 < self.starts.len() && row >= self.starts[sequence + 1] {
                sequence += 1;
            }
            let within = row - self.starts[sequence];
            (within < self.virtual_tokens).then_some(within)
        })
    }
}

/// `out[row] = factor * word[ids[row]] + position[positions[row]] + token_type[types[row]]`,
/// [rows, width].
pub fn forward(threads: &Threads, mut out: &mut [f32], lookup: Lookup<'_>, tables: Tables<'_>, width: usize) {
    assert_eq!(out.len(), lookup.rows() * width);
    let entry = move |table: &[f32], index: u32| {
        index as usize * width..index as usize * width + table[..width].len()
    };
    threads.run(threads.row_ranges(lookup.rows(), width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        move || {
            vectorize(
                #[inline(always)]
                || {
                    let prompt_rows = lookup.prompt_rows(rows.start);
                    for ((out, row), prompt_row) in out.chunks_exact_mut(width).zip(rows).zip(prompt_rows) {
                        let (first, index, factor) = match (tables.prompt, prompt_row) {
                            (Some(prompt), Some(row)) => (Some(prompt), row, 1.0),
                            _ => (tables.word, lookup.ids[row], lookup.factor),
                        };
                        match first {
                            Some(table) => out.copy_from_slice(&table[entry(table, index)]),
                            None => out.fill(0.0),
                        }
                        if factor != 1.0 {
                            out.iter_mut().for_each(|element| *element *= factor);
                        }
                        if let Some(table) = tables.position {
                            add_row(out, &table[entry(table, lookup.positions[row])]);
                        }
                        if let Some(table) = tables.token_type {
                            add_row(out, &table[entry(table, lookup.types[row])]);
                        }
                    }
                },
            )
        }
    }));
}

/// Adds the gradients of the tables for `dout` [rows, width]. `prompted` says
/// whether the forward pass had a prompt: then virtual tokens give words nothing.
/// Each thread adds its own columns, row after row, so that no update is lost
/// and the order is the same for any number of threads.
pub fn backward(
    threads: &Threads,
    gradients: Gradients<'_>,
    dout: &[f32],
    lookup: Lookup<'_>,
    prompted: bool,
    width: usize,
) {
    assert_eq!(dout.len(), lookup.rows() * width);
    fn share(table: Option<&mut [f32]>, width: usize) -> Option<SharedMatrix<'_>> {
        table.map(|table| SharedMatrix::new(table, width))
    }
    let tables = (
        gradients.word.map(|table| SharedMatrix::new(table, width)),
        gradients.position.map(|table| SharedMatrix::new(table, width)),
        share(gradients.token_type, width),
        share(gradients.prompt, width),
    );
    threads.run(threads.column_ranges(lookup.rows(), width).map(|columns| {
        let (word, position, token_type, prompt) = &tables;
        move || {
            vectorize(
                #[inline(always)]
                || {
                    let add = |table: &Option<SharedMatrix<'_>>, index: u32, d: &[f32], factor: f32| {
                        let Some(table) = table else { return };
                        // SAFETY: the tasks' columns do not overlap.
                        let sum = unsafe { table.row(index as usize, columns.clone()) };
                        match factor == 1.0 {
                            true => add_row(sum, d),
                            false => sum.iter_mut().zip(d).for_each(|(sum, d)| *sum += factor * d),
                        }
                    };
                    let prompt_rows = lookup.prompt_rows(0);
                    for ((row, d), prompt_row) in dout.chunks_exact(width).enumerate().zip(prompt_rows) {
                        let d = &d[columns.clone()];
                        match prompt_row.filter(|_| prompted) {
                            Some(row) => add(prompt, row, d, 1.0),
                            None if Some(lookup.ids[row]) == lookup.padding => {}
                            None => add(word, lookup.ids[row], d, lookup.factor),
                        }
                        add(position, lookup.positions.get(row).copied().unwrap_or(0), d, 1.0);
                        add(token_type, lookup.types.get(row).copied().unwrap_or(0), d, 1.0);
                    }
                },
            )
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::super::reference::{assert_close, random, wide};
    use super::*;

    struct Case {
        starts: Vec<u32>,
        ids: Vec<u32>,
        positions: Vec<u32>,
        types: Vec<u32>,
        virtual_tokens: u32,
        factor: f32,
    }

    fn case(lengths: &[u32], virtual_tokens: u32) -> Case {
        let mut starts = vec![0];
        let (mut positions, mut types) = (Vec::new(), Vec::new());
        for length in lengths {
            positions.extend(0..*length);
            types.extend((0..*length).map(|row| u32::from(row > 3)));
            starts.push(starts.last().unwrap() + length);
        }
        let ids = (0..positions.len() as u32).map(|row| row * 7 % 5).collect();
        Case { starts, ids, positions, types, virtual_tokens, factor: 1.0 }
    }

    impl Case {
        fn lookup(&self) -> Lookup<'_> {
            Lookup {
                starts: &self.starts,
                virtual_tokens: self.virtual_tokens,
                ids: &self.ids,
                positions: &self.positions,
                types: &self.types,
                factor: self.factor,
                padding: None,
            }
        }
    }

    /// The map is linear, so its transpose is checked against the map itself:
    /// for each row, entry of a table and column, once.
    #[test]
    fn forward_takes_and_backward_gives_to_the_same_entries() {
        for (lengths, virtual_tokens, width, factor) in [
            (&[1][..], 0, 3, 1.0),
            (&[5, 1, 9], 2, 17, 1.0),
            (&[5, 1, 9], 2, 17, 5.5),
            (&[500, 13], 3, 130, 1.0),
            (&[2], 4, 16, 1.0),
        ] {
            let case = Case { factor, ..case(lengths, virtual_tokens) };
            let rows = case.ids.len();
            let tables =
                [random(5 * width, 1), random(500 * width, 2), random(2 * width, 3), random(4 * width, 4)];
            let dout = random(rows * width, 5);
            let mut expected = vec![0.0; rows * width];
            let mut grads = tables.each_ref().map(|table| vec![0.0f64; table.len()]);
            for sequence in 0..lengths.len() {
                for row in case.starts[sequence]..case.starts[sequence + 1] {
                    let (within, r) = (row - case.starts[sequence], row as usize);
                    let first = match within < virtual_tokens {
                        true => (3, within, 1.0),
                        false => (0, case.ids[r], f64::from(case.factor)),
                    };
                    for (table, index, factor) in
                        [first, (1, case.positions[r], 1.0), (2, case.types[r], 1.0)]
                    {
                        for column in 0..width {
                            let place = index as usize * width + column;
                            expected[r * width + column] += factor * f64::from(tables[table][place]);
                            grads[table][place] += factor * f64::from(dout[r * width + column]);
                        }
                    }
                }
            }
            let run = |count| {
                let threads = Threads::new(count).unwrap();
                let [word, position, token_type, prompt] = &tables;
                let given = Tables {
                    word: Some(word),
                    position: Some(position),
                    token_type: Some(token_type),
                    prompt: Some(prompt),
                };
                let mut out = vec![f32::NAN; rows * width];
                forward(&threads, &mut out, case.lookup(), given, width);
                let mut found = tables.each_ref().map(|table| vec![0.0; table.len()]);
                let [word, position, token_type, prompt] = &mut found;
                let gradients = Gradients {
                    word: Some(word),
                    position: Some(position),
                    token_type: Some(token_type),
                    prompt: Some(prompt),
                };
                backward(&threads, gradients, &dout, case.lookup(), true, width);
                (out, found)
            };
            let (out, found) = run(1);
            assert_close(&out, &expected, 1e-6);
            for (found, expected) in found.iter().zip(&grads) {
                assert_close(found, expected, 5e-6);
            }
            assert!((out, found) == run(2));
        }
    }

    #[test]
    fn without_a_prompt_virtual_rows_take_their_word() {
        let case = case(&[3], 2);
        let threads = Threads::new(1).unwrap();
        let word = random(5 * 4, 1);
        let mut out = vec![0.0; 12];
        forward(&threads, &mut out, case.lookup(), Tables { word: Some(&word), ..Tables::default() }, 4);
        let expected: Vec<f32> =
            case.ids.iter().flat_map(|&id| word[id as usize * 4..][..4].to_vec()).collect();
        assert_close(&out, &wide(&expected), 0.0);
        let mut gradient = vec![0.0; 20];
        let gradients = Gradients { word: Some(&mut gradient), ..Gradients::default() };
        backward(&threads, gradients, &[1.0; 12], case.lookup(), false, 4);
        assert_eq!(gradient.iter().sum::<f32>(), 12.0);
    }
}
