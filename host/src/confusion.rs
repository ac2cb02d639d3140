//! Which classes are taken for which: for each label that a task predicts and has gold
//! for, how often examples of each class were predicted as each class.

use host_ir::task::{Example, Layout, Prediction, PredictionColumn, PredictionType, PredictionValue};
use serde::{Deserialize, Serialize};

/// Of more classes than this nobody reads a matrix.
const MOST_CLASSES: usize = 50;

/// The confusion matrix of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// The field of the label.
    pub field: String,
    pub classes: Vec<String>,
    /// `[classes, classes]`: by the right class, then by the predicted one, numbers of
    /// examples.
    pub counts: Vec<Vec<u64>>,
}

/// The matrices of a split, of which examples are counted one after another. Those
/// without gold do not count; a label without any gold has no matrix.
#[derive(Clone, Debug, Default)]
pub struct Confusions {
    /// The places of the prediction and of the label's field, and the matrix.
    columns: Vec<(usize, usize, Confusion)>,
}

impl Confusions {
    /// Of the labels that a layout predicts and has gold for.
    pub fn new(layout: &Layout) -> Confusions {
        let of_column = |(column, prediction): (usize, &PredictionColumn)| {
            let PredictionType::Label(field) = &prediction.kind else { return None };
            let place = layout.field(field).filter(|&place| layout.fields[place].gold)?;
            let classes = layout.labels(field).filter(|classes| classes.len() <= MOST_CLASSES)?.to_vec();
            let counts = vec![vec![0; classes.len()]; classes.len()];
            Some((column, place, Confusion { field: field.clone(), classes, counts }))
        };
        Confusions { columns: layout.predictions.iter().enumerate().filter_map(of_column).collect() }
    }

    /// Counts an example.
    pub fn add(&mut self, example: &Example, predicted: &Prediction) {
        for (column, place, confusion) in &mut self.columns {
            if let (Some(gold), Some(PredictionValue::Label(label))) =
                (example.label(*place), &predicted[*column])
            {
                confusion.counts[gold as usize][*label as usize] += 1;
            }
        }
    }

    /// The matrices of what was counted.
    pub fn counted(&self) -> Vec<Confusion> {
        let matrices = self.columns.iter().map(|(_, _, confusion)| confusion);
        matrices
            .filter(|confusion| confusion.counts.iter().flatten().any(|&count| count > 0))
            .cloned()
            .collect()
    }
}

impl Confusion {
    /// As a table: the heads, then a row for each right class with its name first.
    pub fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let corner = format!("{}, right \\ predicted", self.field.replace('_', " "));
        let heads = [corner].into_iter().chain(self.classes.iter().cloned()).collect();
        let row = |(name, counts): (&String, &Vec<u64>)| {
            [name.clone()].into_iter().chain(counts.iter().map(u64::to_string)).collect()
        };
        (heads, self.classes.iter().zip(&self.counts).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{Field, FieldType, FieldValue, Origin};

    use super::*;

    fn layout() -> Layout {
        let kind = FieldType::Label(["no", "yes"].map(String::from).to_vec());
        Layout {
            fields: vec![Field { name: "label".into(), kind, gold: true }],
            predictions: vec![PredictionColumn {
                name: "label".into(),
                kind: PredictionType::Label("label".into()),
            }],
            ..Layout::default()
        }
    }

    fn counted(pairs: &[(Option<u32>, u32)]) -> Vec<Confusion> {
        let example = |gold: Option<u32>| Example {
            origin: Origin { file: "f".into(), line: 1 },
            values: vec![gold.map(FieldValue::Label)],
        };
        let mut confusions = Confusions::new(&layout());
        for (gold, label) in pairs {
            confusions.add(&example(*gold), &vec![Some(PredictionValue::Label(*label))]);
        }
        confusions.counted()
    }

    #[test]
    fn rows_are_what_is_right_and_examples_without_gold_do_not_count() {
        let found = counted(&[(Some(0), 1), (Some(0), 1), (Some(1), 1), (Some(0), 0), (None, 0)]);
        assert_eq!(found[0].counts, [[1, 2], [0, 1]]);
        let (heads, rows) = found[0].cells();
        assert_eq!(heads, ["label, right \\ predicted", "no", "yes"]);
        assert_eq!(rows, [["no", "1", "2"], ["yes", "0", "1"]]);
        assert!(counted(&[(None, 0)]).is_empty());
    }
}
