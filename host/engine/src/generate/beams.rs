//! Beam search for one example, step by step as `_beam_search` of transformers: the
//! same candidates, length penalty and rules of stopping, in single precision.

use host_ir::task::{EarlyStopping, GenerationSettings};

use crate::generate::processors::Processors;
use crate::generate::{Running, log_probabilities};

/// What stands for a score that can win nothing.
const NOTHING: f32 = -1.0e9;

/// A sequence that came to its end, or the place of one.
#[derive(Clone, Debug)]
struct Finished {
    score: f32,
    ended: bool,
    tokens: Vec<u32>,
}

/// A continuation of a beam.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    beam: usize,
    token: u32,
}

pub struct Beams {
    running: Vec<Running>,
    scores: Vec<f32>,
    finished: Vec<Finished>,
    length_penalty: f64,
    early_stopping: EarlyStopping,
    /// Whether an end may still be better than those that were found.
    improvable: bool,
    done: bool,
}

impl Beams {
    pub fn new(
        start: Running,
        beams: usize,
        settings: &GenerationSettings,
        processors: &Processors,
    ) -> Beams {
        // The first step goes on from one beam alone.
        let mut scores = vec![NOTHING; beams];
        scores[0] = 0.0;
        let nothing = Finished { score: NOTHING, ended: false, tokens: start.tokens.clone() };
        Beams {
            done: start.tokens.len() >= processors.longest,
            finished: vec![nothing; beams],
            running: vec![start; beams],
            scores,
            length_penalty: settings.length_penalty,
            early_stopping: settings.early_stopping,
            improvable: true,
        }
    }

    pub fn running(&self) -> &[Running] {
        &self.running
    }

    pub fn note_row(&mut self, place: usize, row: u32) {
        self.running[place].rows.push(row);
    }

    pub fn finished(&self) -> bool {
        self.done
    }

    pub fn into_tokens(self) -> Vec<u32> {
        let best = self.finished.into_iter().next();
        best.map_or(Vec::new(), |mut best| best.tokens.split_off(1))
    }

    pub fn advance(&mut self, logits: &mut [f32], processors: &Processors) {
        let beams = self.running.len();
        log_probabilities(logits, beams);
        let vocabulary = logits.len() / beams;
        let mut best = Best::new(beams * (1 + processors.ends.len()).max(2));
        for (beam, scores) in logits.chunks_exact_mut(vocabulary).enumerate() {
            processors.apply(scores, &self.running[beam].tokens);
            for (token, &score) in scores.iter().enumerate() {
                best.offer(Candidate { score: score + self.scores[beam], beam, token: token as u32 });
            }
        }
        let candidates = best.candidates;
        let length = self.running[0].tokens.len() + 1;
        let ends: Vec<bool> =
            candidates.iter().map(|candidate| processors.ended(length, candidate.token)).collect();
        self.finish(&candidates, &ends, length);
        self.go_on(&candidates, &ends);
        self.judge(&ends, length, processors.longest);
    }

    /// Takes up what ended, where it is better than what ended before.
    fn finish(&mut self, candidates: &[Candidate], ends: &[bool], length: usize) {
        let beams = self.running.len();
        let full = self.finished.iter().all(|finished| finished.ended);
        let closed = full && self.early_stopping == EarlyStopping::Yes;
        // The start token is no part of the length.
        let penalty = ((length - 1) as f64).powf(self.length_penalty) as f32;
        let mut merged = std::mem::take(&mut self.finished);
        for (place, (candidate, &ends)) in candidates.iter().zip(ends).enumerate() {
            let ended = ends && place < beams;
            let mut score = candidate.score / penalty;
            for refused in [closed, !self.improvable, !ended] {
                score += if refused { NOTHING } else { 0.0 };
            }
            let mut tokens = Vec::new();
            if ended {
                tokens.clone_from(&self.running[candidate.beam].tokens);
                tokens.push(candidate.token);
            }
            merged.push(Finished { score, ended, tokens });
        }
        merged.sort_by(|a, b| b.score.total_cmp(&a.score));
        merged.truncate(beams);
        self.finished = merged;
    }

    /// The best continuations that did not end.
    fn go_on(&mut self, candidates: &[Candidate], ends: &[bool]) {
        let beams = self.running.len();
        let mut open: Vec<Candidate> = candidates.to_vec();
        for (candidate, &ends) in open.iter_mut().zip(ends) {
            candidate.score += if ends { NOTHING } else { 0.0 };
        }
        open.sort_by(|a, b| b.score.total_cmp(&a.score));
        open.truncate(beams);
        let running = open.iter().map(|candidate| {
            let mut running = self.running[candidate.beam].clone();
            running.tokens.push(candidate.token);
            running
        });
        self.running = running.collect();
        self.scores = open.iter().map(|candidate| candidate.score).collect();
    }

    /// Whether to go on.
    fn judge(&mut self, ends: &[bool], length: usize, longest: usize) {
        let hypothetical = match self.early_stopping {
            EarlyStopping::Never if self.length_penalty > 0.0 => longest - 1,
            _ => length - 1,
        };
        let possible = self.scores[0] / (hypothetical as f64).powf(self.length_penalty) as f32;
        let worst = self.finished.iter().map(|finished| finished.score).fold(f32::INFINITY, f32::min);
        let beats = |finished: &Finished| possible > if finished.ended { worst } else { NOTHING };
        self.improvable &= self.finished.iter().any(beats);
        let full = self.finished.iter().all(|finished| finished.ended);
        let stops = full && self.early_stopping == EarlyStopping::Yes;
        self.done = !self.improvable || stops || ends.iter().all(|&ends| ends);
    }
}

/// The best candidates, the best first; of equal ones the first offered.
struct Best {
    candidates: Vec<Candidate>,
    most: usize,
}

impl Best {
    fn new(most: usize) -> Best {
        Best { candidates: Vec::with_capacity(most + 1), most }
    }

    #[inline]
    fn offer(&mut self, candidate: Candidate) {
        if self.candidates.len() == self.most
            && self.candidates.last().is_some_and(|last| last.score >= candidate.score)
        {
            return;
        }
        let place = self.candidates.partition_point(|known| known.score >= candidate.score);
        self.candidates.insert(place, candidate);
        self.candidates.truncate(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_order_and_the_first_of_equals() {
        let mut best = Best::new(3);
        for (token, score) in [1.0, 3.0, f32::NEG_INFINITY, 3.0, 2.0, 0.5].into_iter().enumerate() {
            best.offer(Candidate { score, beam: 0, token: token as u32 });
        }
        let tokens: Vec<u32> = best.candidates.iter().map(|candidate| candidate.token).collect();
        assert_eq!(tokens, [1, 3, 4]);
    }
}
