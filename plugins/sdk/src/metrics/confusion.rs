//! Metrics from sums, as scikit-learn computes them.

/// Counts of gold class by predicted class.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    classes: usize,
    /// [gold, predicted], row-major.
    counts: Vec<f64>,
    /// Of each gold class the examples without a prediction, as if they were predicted as
    /// a class that there is not.
    unpredicted: Vec<f64>,
}

impl Confusion {
    /// The key of an example's count: `gold * classes + predicted`; behind those, by gold,
    /// of examples without a prediction.
    pub fn key(classes: usize, gold: u32, predicted: Option<u32>) -> u64 {
        let (classes, gold) = (classes as u64, u64::from(gold));
        predicted.map_or(classes * classes + gold, |predicted| gold * classes + u64::from(predicted))
    }

    /// Reads the count of each [`key`](Confusion::key).
    pub fn new(classes: usize, count: impl Fn(u64) -> f64) -> Confusion {
        let of = |gold: usize, predicted| count(Confusion::key(classes, gold as u32, predicted));
        let counts = (0..classes * classes).map(|place| of(place / classes, Some((place % classes) as u32)));
        Confusion {
            classes,
            counts: counts.collect(),
            unpredicted: (0..classes).map(|gold| of(gold, None)).collect(),
        }
    }

    fn at(&self, gold: usize, predicted: usize) -> f64 {
        self.counts[gold * self.classes + predicted]
    }

    /// Right predictions of a class, its predictions, and its gold labels.
    fn of_class(&self, class: usize) -> [f64; 3] {
        let predicted = (0..self.classes).map(|gold| self.at(gold, class)).sum();
        let gold: f64 = (0..self.classes).map(|predicted| self.at(class, predicted)).sum();
        [self.at(class, class), predicted, gold + self.unpredicted[class]]
    }

    /// Precision, recall and F1 of one class, as scikit-learn's with
    /// `average="binary"` and `pos_label=class`; 0 where the class stands nowhere.
    pub fn binary(&self, class: usize) -> [f64; 3] {
        scores(self.of_class(class))
    }

    /// Precision, recall and F1 over the predictions of some classes together,
    /// as scikit-learn's with `average="micro"` and these `labels`.
    pub fn micro(&self, classes: impl IntoIterator<Item = usize>) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for class in classes {
            sums.iter_mut().zip(self.of_class(class)).for_each(|(sum, count)| *sum += count);
        }
        scores(sums)
    }

    /// Accuracy; precision, recall and F1, macro and weighted: as scikit-learn's
    /// `accuracy_score` and `precision_recall_fscore_support` with
    /// `zero_division=0`, over the classes that stand in gold or prediction (as its
    /// `labels`, where examples have no prediction).
    /// `None` where there is no example.
    pub fn metrics(&self) -> Option<[f64; 7]> {
        let total: f64 = self.counts.iter().chain(&self.unpredicted).sum();
        if total == 0.0 {
            return None;
        }
        let (mut right, mut present) = (0.0, 0.0);
        let (mut plain, mut weighted) = ([0.0; 3], [0.0; 3]);
        for class in 0..self.classes {
            let [hits, predicted, gold] = self.of_class(class);
            right += hits;
            if gold + predicted == 0.0 {
                continue;
            }
            present += 1.0;
            for (place, score) in scores([hits, predicted, gold]).into_iter().enumerate() {
                plain[place] += score;
                weighted[place] += score * gold;
            }
        }
        let [p, r, f] = plain.map(|sum| sum / present);
        let [pw, rw, fw] = weighted.map(|sum| sum / total);
        Some([right / total, p, r, f, pw, rw, fw])
    }
}

/// Precision, recall and F1 from right predictions, predictions and gold labels.
fn scores([hits, predicted, gold]: [f64; 3]) -> [f64; 3] {
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    [ratio(hits, predicted), ratio(hits, gold), ratio(2.0 * hits, gold + predicted)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(classes: usize, pairs: &[(usize, usize)]) -> Confusion {
        let count = |key: u64| {
            pairs.iter().filter(|(gold, predicted)| (gold * classes + predicted) as u64 == key).count() as f64
        };
        Confusion::new(classes, count)
    }

    fn of(classes: usize, pairs: &[(usize, usize)]) -> Option<[f64; 7]> {
        confusion(classes, pairs).metrics()
    }

    #[test]
    fn classes_that_stand_nowhere_do_not_count() {
        // Class 2 stands nowhere, class 1 is never predicted.
        let metrics = of(3, &[(0, 0), (0, 0), (1, 0), (1, 0)]).unwrap();
        assert_eq!(metrics[0], 0.5);
        assert_eq!(metrics[1], 0.25);
        assert_eq!(metrics[2], 0.5);
        assert!((metrics[3] - (2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(of(2, &[]), None);
    }

    /// Figures of scikit-learn with a sixth class for what has no prediction and
    /// `labels=[0, 1, 2]`: gold 0, 0, 1, 1, 2 and predicted 0, none, 1, 0, none.
    #[test]
    fn examples_without_a_prediction_are_wrong() {
        let pairs = [(0, Some(0)), (0, None), (1, Some(1)), (1, Some(0)), (2, None)];
        let keys = pairs.map(|(gold, predicted)| Confusion::key(3, gold, predicted));
        let count = |key| keys.iter().filter(|known| **known == key).count() as f64;
        let confusion = Confusion::new(3, count);
        let wanted = [0.4, 0.5, 1.0 / 3.0, 7.0 / 18.0, 0.6, 0.4, 7.0 / 15.0];
        for (found, wanted) in confusion.metrics().unwrap().into_iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
        // Of the first class one of two predictions is right, and one of two is found.
        assert_eq!(confusion.binary(0), [0.5, 0.5, 0.5]);
        assert_eq!(confusion.binary(2), [0.0; 3]);
        let none = Confusion::new(2, |key| f64::from(u8::from(key == Confusion::key(2, 1, None))));
        assert_eq!(none.metrics(), Some([0.0; 7]));
    }

    /// Figures of scikit-learn, written by tests/reference/metrics.py.
    #[test]
    fn figures_are_those_of_scikit_learn() {
        let text = include_str!("../../../../tests/golden/metrics.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        let names = [
            "accuracy",
            "precision_macro",
            "recall_macro",
            "f1_macro",
            "precision_weighted",
            "recall_weighted",
            "f1_weighted",
        ];
        for case in &cases {
            let column = |name: &str| -> Vec<usize> {
                case[name].as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as usize).collect()
            };
            let pairs: Vec<(usize, usize)> = column("gold").into_iter().zip(column("predicted")).collect();
            let classes = case["classes"].as_u64().unwrap() as usize;
            let confusion = confusion(classes, &pairs);
            let near = |name: &str, found: f64, wanted: &serde_json::Value| {
                let close = (found - wanted.as_f64().unwrap()).abs() < 1e-12;
                assert!(close, "{name}: {found} and {wanted} in {case}");
            };
            for (name, found) in names.iter().zip(confusion.metrics().unwrap()) {
                near(name, found, &case["metrics"][name]);
            }
            let all = |name: &str, found: [f64; 3], wanted: &serde_json::Value| {
                found.into_iter().enumerate().for_each(|(place, found)| near(name, found, &wanted[place]));
            };
            for class in 0..classes {
                all("binary", confusion.binary(class), &case["metrics"]["by_class"][class]);
            }
            all("micro", confusion.micro(0..classes), &case["metrics"]["micro"]);
            all("micro", confusion.micro(1..classes), &case["metrics"]["micro_without_first"]);
        }
        assert_eq!(cases.len(), 40);
    }
}
