//! Metrics of coreference as the official scorer of CoNLL-2012 computes them
//! (Pradhan et al. 2014, "Scoring coreference partitions of predicted
//! mentions"), and LEA (Moosavi and Strube 2016).
//!
//! A document gives [`Counts`], numerators and denominators that add up over
//! documents; metrics are ratios of their sums.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::assignment::largest_sum;

/// A mention: its first and last word.
pub type Span = (u32, u32);

/// The mentions of one entity.
pub type Entity = Vec<Span>;

/// Recall, precision and F1, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    pub recall: f64,
    pub precision: f64,
    pub f1: f64,
}

/// Numerator and denominator of recall, and of precision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    pub recall: (f64, f64),
    pub precision: (f64, f64),
}

impl Ratio {
    /// A ratio whose two numerators are one.
    fn shared(common: f64, key: f64, response: f64) -> Ratio {
        Ratio { recall: (common, key), precision: (common, response) }
    }

    /// What has no denominator is 0.
    pub fn score(&self) -> Score {
        let ratio = |(part, whole): (f64, f64)| if whole > 0.0 { part / whole } else { 0.0 };
        let (recall, precision) = (ratio(self.recall), ratio(self.precision));
        Score { recall, precision, f1: harmonic(recall, precision) }
    }
}

/// What adds up over documents.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Mentions with exactly the same words.
    pub mentions: Ratio,
    /// Links (Vilain et al. 1995).
    pub muc: Ratio,
    /// B³ (Bagga and Baldwin 1998), over mentions.
    pub b_cubed: Ratio,
    /// CEAF (Luo 2005) by common mentions.
    pub ceaf_m: Ratio,
    /// CEAF by the similarity of entities.
    pub ceaf_e: Ratio,
    pub lea: Ratio,
    /// BLANC (Recasens and Hovy 2011; Luo et al. 2014): pairs of mentions that
    /// corefer, and pairs that do not.
    pub blanc_links: Ratio,
    pub blanc_others: Ratio,
}

/// Numbers of [`Counts`] as a list.
pub const COUNTS: usize = 32;

impl Counts {
    /// Compares the entities of a document's key with those of a response. A
    /// mention that the response repeats counts where it stands first.
    pub fn of(key: &[Entity], response: &[Entity]) -> Counts {
        Comparison::new(key, response).counts()
    }

    fn ratios(&self) -> [Ratio; 8] {
        [
            self.mentions,
            self.muc,
            self.b_cubed,
            self.ceaf_m,
            self.ceaf_e,
            self.lea,
            self.blanc_links,
            self.blanc_others,
        ]
    }

    /// The numbers one after the other, for sums.
    pub fn numbers(&self) -> [f64; COUNTS] {
        let mut numbers = [0.0; COUNTS];
        for (place, ratio) in numbers.chunks_mut(4).zip(self.ratios()) {
            place.copy_from_slice(&[ratio.recall.0, ratio.recall.1, ratio.precision.0, ratio.precision.1]);
        }
        numbers
    }

    /// Counts of their numbers.
    pub fn from_numbers(numbers: &[f64; COUNTS]) -> Counts {
        let ratio = |place: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|offset| numbers[4 * place + offset]);
            Ratio { recall: (a, b), precision: (c, d) }
        };
        Counts {
            mentions: ratio(0),
            muc: ratio(1),
            b_cubed: ratio(2),
            ceaf_m: ratio(3),
            ceaf_e: ratio(4),
            lea: ratio(5),
            blanc_links: ratio(6),
            blanc_others: ratio(7),
        }
    }

    /// The counts of two documents together.
    pub fn plus(&self, other: &Counts) -> Counts {
        let (mut sum, more) = (self.numbers(), other.numbers());
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        Counts::from_numbers(&sum)
    }

    /// BLANC of both kinds of pairs; of one alone where the key has none of the
    /// other (Luo et al. 2014, section 4).
    pub fn blanc(&self) -> Score {
        let (links, others) = (self.blanc_links.score(), self.blanc_others.score());
        match (self.blanc_links.recall.1 > 0.0, self.blanc_others.recall.1 > 0.0) {
            (true, true) => Score {
                recall: (links.recall + others.recall) / 2.0,
                precision: (links.precision + others.precision) / 2.0,
                f1: (links.f1 + others.f1) / 2.0,
            },
            (true, false) => links,
            (false, true) => others,
            (false, false) => Score::default(),
        }
    }

    /// The mean F1 of MUC, B³ and CEAF-e, by which CoNLL-2012 ranked.
    pub fn conll_f1(&self) -> f64 {
        [self.muc, self.b_cubed, self.ceaf_e].iter().map(|ratio| ratio.score().f1).sum::<f64>() / 3.0
    }
}

fn harmonic(a: f64, b: f64) -> f64 {
    if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 }
}

fn pairs(count: usize) -> f64 {
    count as f64 * count.saturating_sub(1) as f64 / 2.0
}

/// Mentions that an entity of the key and one of the response have in common.
#[derive(Clone, Copy, Debug, Default)]
struct Common {
    /// Each mention once.
    mentions: usize,
    /// As often as the key's entity has it.
    occurrences: usize,
}

/// Key and response, their mentions found in each other.
struct Comparison<'a> {
    key: &'a [Entity],
    response: Vec<Entity>,
    /// The entity of each mention; of those that the key repeats, the last.
    key_entity: BTreeMap<Span, usize>,
    response_entity: BTreeMap<Span, usize>,
    common: BTreeMap<(usize, usize), Common>,
}

impl<'a> Comparison<'a> {
    fn new(key: &'a [Entity], response: &[Entity]) -> Comparison<'a> {
        let mut response_entity = BTreeMap::new();
        let mut kept: Vec<Entity> = Vec::new();
        for entity in response {
            let mut mentions = Entity::new();
            for &span in entity {
                if let Entry::Vacant(free) = response_entity.entry(span) {
                    free.insert(kept.len());
                    mentions.push(span);
                }
            }
            if !mentions.is_empty() {
                kept.push(mentions);
            }
        }
        let (mut key_entity, mut common) = (BTreeMap::new(), BTreeMap::new());
        for (place, entity) in key.iter().enumerate() {
            let mut seen = BTreeSet::new();
            for span in entity {
                key_entity.insert(*span, place);
                if let Some(&other) = response_entity.get(span) {
                    let common: &mut Common = common.entry((place, other)).or_default();
                    common.occurrences += 1;
                    common.mentions += usize::from(seen.insert(*span));
                }
            }
        }
        Comparison { key, response: kept, key_entity, response_entity, common }
    }

    fn counts(&self) -> Counts {
        let (blanc_links, blanc_others) = self.blanc();
        Counts {
            mentions: self.mentions(),
            muc: self.muc(),
            b_cubed: self.b_cubed(),
            ceaf_m: self.ceaf(|common, _, _| common as f64, |entity| entity.len() as f64),
            ceaf_e: self.ceaf(|common, key, response| 2.0 * common as f64 / (key + response) as f64, |_| 1.0),
            lea: self.lea(),
            blanc_links,
            blanc_others,
        }
    }

    fn mentions(&self) -> Ratio {
        let common = self.response_entity.keys().filter(|span| self.key_entity.contains_key(span)).count();
        Ratio::shared(common as f64, self.key_entity.len() as f64, self.response_entity.len() as f64)
    }

    /// How many mentions of each key entity a response entity has.
    fn parts(&self, entity: &Entity) -> BTreeMap<usize, usize> {
        let mut parts = BTreeMap::new();
        for place in entity.iter().filter_map(|span| self.key_entity.get(span)) {
            *parts.entry(*place).or_default() += 1;
        }
        parts
    }

    fn muc(&self) -> Ratio {
        let links = |entities: &[Entity]| -> f64 {
            entities.iter().map(|entity| entity.len().saturating_sub(1) as f64).sum()
        };
        let correct =
            self.response.iter().flat_map(|entity| self.parts(entity).into_values()).map(|part| part - 1);
        Ratio::shared(correct.sum::<usize>() as f64, links(self.key), links(&self.response))
    }

    fn b_cubed(&self) -> Ratio {
        let mentions =
            |entities: &[Entity]| -> f64 { entities.iter().map(|entity| entity.len() as f64).sum() };
        let (mut recall, mut precision) = (0.0, 0.0);
        for (place, entity) in self.response.iter().enumerate() {
            for key in entity.iter().filter_map(|span| self.key_entity.get(span)) {
                let common = self.common[&(*key, place)].mentions as f64;
                recall += common / self.key[*key].len() as f64;
                precision += common / entity.len() as f64;
            }
        }
        Ratio { recall: (recall, mentions(self.key)), precision: (precision, mentions(&self.response)) }
    }

    fn ceaf(
        &self,
        similarity: impl Fn(usize, usize, usize) -> f64,
        of_one: impl Fn(&Entity) -> f64,
    ) -> Ratio {
        let columns = self.response.len();
        let mut values = vec![0.0; self.key.len() * columns];
        for (&(key, response), common) in &self.common {
            values[key * columns + response] =
                similarity(common.occurrences, self.key[key].len(), self.response[response].len());
        }
        let best = largest_sum(&values, self.key.len(), columns);
        let key = self.key.iter().filter(|entity| !entity.is_empty()).map(&of_one).sum();
        Ratio::shared(best, key, self.response.iter().map(of_one).sum())
    }

    fn lea(&self) -> Ratio {
        let mut resolved = vec![0.0; self.key.len()];
        for (&(key, _), common) in &self.common {
            resolved[key] += pairs(common.occurrences);
        }
        let alone = |spans: &Entity, of: &BTreeMap<Span, usize>, others: &[Entity]| {
            let found = spans.first().and_then(|span| of.get(span));
            f64::from(u8::from(found.is_some_and(|&other| others[other].len() == 1)))
        };
        let mut ratio = Ratio::default();
        for (entity, resolved) in self.key.iter().zip(resolved) {
            let size = entity.len() as f64;
            ratio.recall.1 += size;
            ratio.recall.0 += match entity.len() {
                0 => 0.0,
                1 => alone(entity, &self.response_entity, &self.response),
                count => size * resolved / pairs(count),
            };
        }
        for entity in &self.response {
            let size = entity.len() as f64;
            ratio.precision.1 += size;
            ratio.precision.0 += match entity.len() {
                1 => alone(entity, &self.key_entity, self.key),
                count => size * self.parts(entity).into_values().map(pairs).sum::<f64>() / pairs(count),
            };
        }
        ratio
    }

    fn blanc(&self) -> (Ratio, Ratio) {
        let (key_links, key_others) = pairs_of(self.key);
        let (links, others) = pairs_of(&self.response);
        let ratio = |key: &Pairs, response: &Pairs| {
            let common = response.iter().filter(|pair| key.contains(pair)).count();
            Ratio::shared(common as f64, key.len() as f64, response.len() as f64)
        };
        (ratio(&key_links, &links), ratio(&key_others, &others))
    }
}

type Pairs = BTreeSet<(Span, Span)>;

/// Pairs of mentions within entities, and pairs between them.
fn pairs_of(entities: &[Entity]) -> (Pairs, Pairs) {
    let (mut links, mut others) = (Pairs::new(), Pairs::new());
    for (place, entity) in entities.iter().enumerate() {
        for (number, &a) in entity.iter().enumerate() {
            links.extend(entity[number + 1..].iter().map(|&b| (a.min(b), a.max(b))));
            others.extend(entities[place + 1..].iter().flatten().map(|&b| (a.min(b), a.max(b))));
        }
    }
    (links, others)
}

#[cfg(test)]
#[path = "coreference_tests.rs"]
mod tests;
