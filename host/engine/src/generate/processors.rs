//! Rules over the next token, as the logits processors of transformers.

use host_ir::task::GenerationSettings;

use crate::models::Decoder;

/// The rules of a generation, in the order of transformers.
#[derive(Clone, Debug)]
pub struct Processors {
    no_repeat: usize,
    minimum: usize,
    /// The most tokens of a sequence, its start included.
    pub longest: usize,
    first: Option<u32>,
    last: Option<u32>,
    pub ends: Vec<u32>,
}

impl Processors {
    /// The settings' rules, and the model's own of first and last tokens where the
    /// settings have none.
    pub fn new(settings: &GenerationSettings, decoder: &Decoder) -> Processors {
        Processors {
            no_repeat: settings.no_repeat_ngram_size as usize,
            minimum: settings.min_new_tokens as usize,
            longest: settings.max_new_tokens as usize + 1,
            first: settings.forced_bos_token_id.or(decoder.forced_first),
            last: settings.forced_eos_token_id.or(decoder.forced_last),
            ends: decoder.ends.clone(),
        }
    }

    /// Makes tokens impossible that must not follow a sequence, its start included.
    pub fn apply(&self, scores: &mut [f32], tokens: &[u32]) {
        for token in self.repeated(tokens) {
            scores[token as usize] = f32::NEG_INFINITY;
        }
        if tokens.len() - 1 < self.minimum {
            for &end in &self.ends {
                scores[end as usize] = f32::NEG_INFINITY;
            }
        }
        let forced = [
            self.first.filter(|_| tokens.len() == 1),
            self.last.filter(|_| tokens.len() + 1 == self.longest),
        ];
        for token in forced.into_iter().flatten() {
            scores.fill(f32::NEG_INFINITY);
            scores[token as usize] = 0.0;
        }
    }

    /// Tokens that would repeat an n-gram.
    fn repeated<'a>(&self, tokens: &'a [u32]) -> impl Iterator<Item = u32> + use<'a> {
        let size = self.no_repeat;
        let applies = size > 0 && tokens.len() + 1 >= size;
        let last = if applies { &tokens[tokens.len() + 1 - size..] } else { &[] };
        let grams = tokens.windows(size.max(1)).filter(move |_| applies);
        grams.filter(move |gram| gram[..size - 1] == *last).map(move |gram| gram[size - 1])
    }

    /// Whether a sequence, its start included, goes no further.
    pub fn ended(&self, tokens: usize, last: u32) -> bool {
        self.ends.contains(&last) || tokens >= self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processors(settings: GenerationSettings) -> Processors {
        let decoder = Decoder { start: 0, ends: vec![1], ..Decoder::default() };
        Processors::new(&settings, &decoder)
    }

    fn possible(processors: &Processors, tokens: &[u32]) -> Vec<u32> {
        let mut scores = vec![0.5; 6];
        processors.apply(&mut scores, tokens);
        (0..6).filter(|&token| scores[token as usize] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn n_grams_are_said_once() {
        let settings = GenerationSettings { no_repeat_ngram_size: 2, ..GenerationSettings::default() };
        let rules = processors(settings);
        assert_eq!(possible(&rules, &[0]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(possible(&rules, &[0, 3, 4, 3, 5, 3]), [0, 1, 2, 3]);
        let single = GenerationSettings { no_repeat_ngram_size: 1, ..GenerationSettings::default() };
        assert_eq!(possible(&processors(single), &[0, 3]), [1, 2, 4, 5]);
    }

    #[test]
    fn first_last_and_end_tokens_are_kept_to_their_places() {
        let settings = GenerationSettings {
            max_new_tokens: 4,
            min_new_tokens: 2,
            forced_bos_token_id: Some(5),
            forced_eos_token_id: Some(1),
            ..GenerationSettings::default()
        };
        let rules = processors(settings);
        assert_eq!(possible(&rules, &[0]), [5]);
        assert_eq!(possible(&rules, &[0, 5]), [0, 2, 3, 4, 5]);
        assert_eq!(possible(&rules, &[0, 5, 3]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(possible(&rules, &[0, 5, 3, 3]), [1]);
        assert!(rules.ended(5, 3) && rules.ended(3, 1) && !rules.ended(4, 3));
    }
}
