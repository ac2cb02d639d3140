//! The trivial baseline beside the methods: what one label for everything comes to.

use super::record::Finished;
use super::words;

/// The baselines of cells on a split, each once.
pub fn lines(cells: &[Finished], split: Option<&str>) -> Vec<String> {
    let line = |cell: &Finished| {
        let baseline = cell.record.result.baseline.as_ref()?;
        let scored = baseline.metrics.iter().find(|scored| Some(scored.split.as_str()) == split)?;
        let metrics = scored.metrics.0.iter();
        let metrics: Vec<String> =
            metrics.map(|(name, value)| format!("{} {value:.3}", words::metric(name))).collect();
        let (label, name) = (&baseline.label, &scored.split);
        (!metrics.is_empty()).then(|| {
            let metrics = metrics.join(", ");
            format!("always \"{label}\", the most frequent in training, on {name}: {metrics}")
        })
    };
    let mut lines: Vec<String> = cells.iter().filter_map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Baseline, Metrics, SplitMetrics};
    use crate::runs::record::tests::finished;

    #[test]
    fn a_baseline_stands_once_and_for_its_split() {
        let mut cells = vec![finished("alpha", 1, 0.5), finished("beta", 1, 0.5)];
        let scored = |split: &str, value: f64| SplitMetrics {
            split: split.into(),
            metrics: Metrics(vec![("f1_macro".into(), value)]),
        };
        for cell in &mut cells {
            cell.record.result.baseline = Some(Baseline {
                label: "good".into(),
                metrics: vec![scored("dev", 0.25), scored("test", 0.5)],
            });
        }
        assert_eq!(
            lines(&cells, Some("test")),
            ["always \"good\", the most frequent in training, on test: F1 macro 0.500"]
        );
        assert!(lines(&cells, Some("other")).is_empty());
    }
}
