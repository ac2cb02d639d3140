//! Progress of a cell: bars on a terminal, plain lines at a sensible rate in a
//! batch job's log, and in both cases the cell's log and its records of steps
//! and epochs.

mod lines;

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use host_engine::device::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::lines::Lines;
use super::{interrupt, terminal};
use crate::cell::{BestMetric, EpochRecord, Progress, Step, Summary};
use crate::runs::record::{EPOCHS, LOG, STEPS, StepRecord};
use crate::runs::words;

/// The time between two plain lines.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// About so many lines tell the course of the loss.
const CURVE_POINTS: u64 = 200;

/// A bar on the standard error, in the program's style.
pub fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("━━╌"))
}

/// Moves a bar. Its numbers are a part of its message: whatever the bar draws in
/// between, they never stand before words of something else.
fn show(bar: &ProgressBar, (done, of): (u64, u64), message: &str) {
    bar.set_message(format!("{done}/{of} {message}"));
    bar.set_length(of);
    bar.set_position(done);
}

/// Sums since the last line of some kind.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    steps: u64,
    loss: f64,
    tokens: u64,
    seconds: f64,
    /// The last of the steps, and its learning rate.
    step: u64,
    learning_rate: f64,
}

impl Window {
    fn add(&mut self, step: Step, seconds: f64) {
        self.steps += 1;
        (self.step, self.learning_rate) = (step.step, step.learning_rate);
        self.loss += step.loss;
        self.tokens += step.tokens;
        self.seconds += seconds;
    }

    fn loss(&self) -> f64 {
        self.loss / self.steps.max(1) as f64
    }

    fn tokens_per_second(&self) -> u64 {
        (self.tokens as f64 / self.seconds.max(1e-9)) as u64
    }
}

/// Files of a cell that grow while it trains.
struct Files {
    log: Lines,
    steps: Lines,
    epochs: Lines,
}

/// Shows progress, and writes it down where a directory is given.
pub struct Reporter {
    files: Option<Files>,
    /// None where the standard error is no terminal.
    bar: Option<ProgressBar>,
    best_metric: Option<BestMetric>,
    started: Instant,
    /// Of the training's earlier parts.
    earlier_seconds: f64,
    /// When the session was last heard of.
    heard: Instant,
    /// When the last plain line was written.
    spoke: Option<Instant>,
    since_line: Window,
    since_record: Window,
}

impl Reporter {
    /// For a cell that trains into a directory.
    pub fn writing(directory: &Path) -> Result<Reporter> {
        let open = |name: &str| Lines::open(directory.join(name));
        let files = Files { log: open(LOG)?, steps: open(STEPS)?, epochs: open(EPOCHS)? };
        Ok(Reporter { files: Some(files), ..Reporter::showing() })
    }

    /// For what leaves no records.
    pub fn showing() -> Reporter {
        let now = Instant::now();
        Reporter {
            files: None,
            bar: std::io::stderr().is_terminal().then(|| bar("  {bar:28} {msg}")),
            best_metric: None,
            started: now,
            earlier_seconds: 0.0,
            heard: now,
            spoke: None,
            since_line: Window::default(),
            since_record: Window::default(),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn log(&mut self, line: &str) -> Result<()> {
        match &mut self.files {
            Some(files) => files.log.line(&format!("{} {line}", words::now())),
            None => Ok(()),
        }
    }

    /// A line for the user and for the log.
    fn say(&mut self, line: &str) -> Result<()> {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::note(line)),
            None => terminal::note(line),
        }
        self.log(line.trim())
    }

    /// Whether it is time for a plain line; if so, it counts as written.
    fn due(&mut self) -> bool {
        let due = self.spoke.is_none_or(|spoke| spoke.elapsed() >= INTERVAL);
        if due {
            self.spoke = Some(Instant::now());
        }
        due
    }

    /// Writes the steps since the last record as one.
    fn record(&mut self) -> Result<()> {
        let window = std::mem::take(&mut self.since_record);
        let seconds = self.seconds();
        let (step, loss, learning_rate) = (window.step, window.loss(), window.learning_rate);
        match &mut self.files {
            Some(files) if window.steps > 0 => {
                files.steps.json(&StepRecord { step, loss, learning_rate, seconds })
            }
            _ => Ok(()),
        }
    }

    /// Seconds since the training began, in all its parts.
    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.started.elapsed().as_secs_f64()
    }

    /// Seconds since the session was last heard of.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(self.heard).as_secs_f64();
        self.heard = now;
        lap
    }
}

impl Progress for Reporter {
    fn start(&mut self, summary: &Summary) -> Result<()> {
        for line in summary_lines(summary) {
            self.say(&format!("  {line}"))?;
        }
        self.best_metric = summary.best_metric.clone();
        Ok(())
    }

    fn begin(&mut self, steps: u64, seconds: f64) -> Result<()> {
        // Before this there is nothing to save, and a signal ends the process at once.
        interrupt::watch();
        if let Some(files) = &mut self.files {
            files.steps.keep(steps)?;
            files.epochs.keep(steps)?;
        }
        (self.started, self.earlier_seconds) = (Instant::now(), seconds);
        self.lap();
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<()> {
        let seconds = self.lap();
        self.since_line.add(step, seconds);
        self.since_record.add(step, seconds);
        // At the same steps, however often training was interrupted.
        let together = (step.steps / CURVE_POINTS).max(1);
        if step.step >= step.steps || step.step.is_multiple_of(together) {
            self.record()?;
        }
        if step.more > 0 {
            return Ok(()); // Time and tokens are those of all that are done.
        }
        let left = self.seconds() / step.step.max(1) as f64 * step.steps.saturating_sub(step.step) as f64;
        let words = |window: &Window| {
            format!(
                "loss {:.4}, {} tokens/s, {} left",
                window.loss(),
                words::count(window.tokens_per_second()),
                words::duration(left)
            )
        };
        if let Some(bar) = &self.bar {
            let message = words(&self.since_line);
            show(bar, (step.step, step.steps), &message);
        }
        if self.due() {
            let window = std::mem::take(&mut self.since_line);
            let rate = step.learning_rate;
            let line =
                format!("step {}/{}: {}, learning rate {rate:.3e}", step.step, step.steps, words(&window));
            match self.bar {
                Some(_) => self.log(&line)?,
                None => self.say(&format!("  {line}"))?,
            }
        }
        Ok(())
    }

    fn evaluated(&mut self, split: &str, examples: u64, of: u64) -> Result<()> {
        self.lap();
        if let Some(bar) = &self.bar {
            show(bar, (examples, of), &format!("examples of {split} evaluated"));
        } else if self.due() {
            let (examples, of) = (words::count(examples), words::count(of));
            self.say(&format!("  {examples} of {of} examples of {split} evaluated"))?;
        }
        Ok(())
    }

    fn epoch(&mut self, record: &EpochRecord) -> Result<()> {
        self.lap();
        if let Some(files) = &mut self.files {
            files.epochs.json(record)?;
        }
        let line = epoch_line(record, self.best_metric.as_ref());
        self.say(&format!("  {line}"))
    }

    fn message(&mut self, sentence: &str) -> Result<()> {
        self.say(&format!("  {sentence}"))
    }

    fn saved(&mut self) -> Result<()> {
        self.record()
    }

    fn interrupted(&self) -> bool {
        interrupt::came().is_some()
    }
}

/// What will be trained, in a few lines.
pub fn summary_lines(summary: &Summary) -> Vec<String> {
    let counts = summary.counts;
    let (trained, total) = (counts.trained as u64, counts.total as u64);
    let mut trains = format!(
        "trains {} of {} parameters ({})",
        words::count(trained),
        words::count(total),
        words::share(trained, total)
    );
    if counts.added > 0 {
        trains.push_str(&format!(", {} of them added", words::count(counts.added as u64)));
    }
    if counts.sites > 0 {
        trains.push_str(&format!(", at {}", words::plural(counts.sites as u64, "site")));
    }
    let examples: Vec<String> =
        summary.examples.iter().map(|(split, number)| format!("{} {split}", words::count(*number))).collect();
    let mut lines = vec![
        trains,
        format!("{} examples, {}", examples.join(", "), words::plural(summary.steps, "optimizer step")),
        format!(
            "about {} of memory{}; plugins loaded and asked in {}",
            words::bytes(summary.estimated_memory_bytes as f64),
            device_words(summary.device),
            words::duration(summary.plugin_seconds)
        ),
    ];
    lines.extend(summary.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines
}

/// Where the memory is, where it is not the machine's own.
fn device_words(device: Option<(Device, Option<u64>)>) -> String {
    match device {
        None | Some((Device::Cpu, _)) => String::new(),
        Some((device, None)) => format!(" on {device}"),
        Some((device, Some(free))) => format!(" on {device}, where {} are free", words::bytes(free as f64)),
    }
}

/// `epoch 1: train loss 1.4321, dev loss 1.3874, dev accuracy 0.3712 (best so far), 12.3 s`
fn epoch_line(record: &EpochRecord, best: Option<&BestMetric>) -> String {
    let epoch = format!("{:.2}", record.epoch);
    let epoch = epoch.trim_end_matches('0').trim_end_matches('.');
    let mut parts = Vec::new();
    parts.extend(record.train_loss.map(|loss| format!("train loss {loss:.4}")));
    for evaluated in &record.evaluations {
        let shown = |name: &str| name == "loss" || best.is_none_or(|best| best.name == name);
        for (name, value) in evaluated.metrics.0.iter().filter(|(name, _)| shown(name)) {
            parts.push(format!("{} {} {value:.4}", evaluated.split, words::metric(name)));
        }
    }
    if let (true, Some(last)) = (record.best, parts.last_mut()) {
        last.push_str(" (best so far)");
    }
    parts.push(words::duration(record.training_seconds));
    format!("epoch {epoch}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use host_ir::method::Counts;

    use super::*;
    use crate::cell::{Metrics, SplitMetrics};

    fn record() -> EpochRecord {
        let metrics = vec![("loss".into(), 1.5), ("accuracy".into(), 0.25), ("f1_macro".into(), 0.125)];
        EpochRecord {
            epoch: 1.5,
            step: 10,
            train_loss: Some(1.25),
            evaluations: vec![SplitMetrics { split: "dev".into(), metrics: Metrics(metrics) }],
            best: true,
            training_seconds: 12.34,
        }
    }

    /// A bar that goes from steps to examples never shows the ones beside the others.
    #[test]
    fn numbers_and_words_of_a_bar_change_together() {
        let bar = ProgressBar::hidden();
        show(&bar, (15, 60), "loss 1.6024");
        assert_eq!(bar.message(), "15/60 loss 1.6024");
        show(&bar, (0, 40), "examples of dev evaluated");
        assert_eq!(bar.message(), "0/40 examples of dev evaluated");
        assert_eq!((bar.position(), bar.length()), (0, Some(40)));
    }

    #[test]
    fn an_epoch_is_a_line() {
        let best = BestMetric { split: "dev".into(), name: "accuracy".into(), higher_is_better: true };
        assert_eq!(
            epoch_line(&record(), Some(&best)),
            "epoch 1.5: train loss 1.2500, dev loss 1.5000, dev accuracy 0.2500 (best so far), 12.3 s"
        );
        assert!(epoch_line(&record(), None).contains("dev F1 macro 0.1250"));
    }

    #[test]
    fn the_summary_says_what_trains() {
        let summary = Summary {
            counts: Counts { trained: 1350, added: 300, total: 100_000, sites: 1 },
            examples: vec![("train".into(), 8544), ("dev".into(), 1101)],
            steps: 801,
            estimated_memory_bytes: 512 << 20,
            ..Summary::default()
        };
        assert_eq!(
            summary_lines(&summary),
            [
                "trains 1,350 of 100,000 parameters (1.35%), 300 of them added, at 1 site",
                "8,544 train, 1,101 dev examples, 801 optimizer steps",
                "about 512 MiB of memory; plugins loaded and asked in 0.00 s",
            ]
        );
    }

    /// A thousand steps leave about two hundred records whose mean is the
    /// loss's, and one line in the log: not ten seconds have passed.
    #[test]
    fn steps_are_thinned() {
        let folder = tempfile::tempdir().unwrap();
        let mut reporter = Reporter::writing(folder.path()).unwrap();
        for step in 1..=1003 {
            let loss = f64::from(step as u32);
            reporter.step(Step { step, steps: 1003, loss, learning_rate: 0.5, tokens: 3, more: 0 }).unwrap();
        }
        reporter.epoch(&record()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let steps: Vec<StepRecord> =
            read(STEPS).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(steps.len(), 201);
        assert_eq!((steps[0].step, steps[0].loss), (5, 3.0));
        assert_eq!((steps[200].step, steps[200].loss), (1003, 1002.0));
        let log = read(LOG);
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(log.contains("step 1/1003: loss 1.0000, "));
        let epochs: EpochRecord = serde_json::from_str(read(EPOCHS).trim()).unwrap();
        assert_eq!(epochs, record());
    }
}
