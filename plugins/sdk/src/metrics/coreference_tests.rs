use std::path::PathBuf;

use host_ir::random::Stream;
use serde_json::Value;

use super::*;
use crate::conll;

/// Counts of the documents of two files, by the key's documents.
fn of_files(key: &str, response: &str) -> Counts {
    let (keys, responses) = (conll::documents(key).unwrap(), conll::documents(response).unwrap());
    let none = Vec::new();
    keys.iter().fold(Counts::default(), |sum, key| {
        let found = responses.iter().find(|response| response.name == key.name);
        sum.plus(&Counts::of(&key.entities, found.map_or(&none, |found| &found.entities)))
    })
}

/// The cases of the official scorer, where they are there.
#[test]
fn scores_are_those_of_the_official_scorer() {
    let folder = std::env::var_os("HOST_TEST_DATA").map(|folder| PathBuf::from(folder).join("coref-scorer"));
    let Some(folder) = folder.filter(|folder| folder.is_dir()) else {
        println!("skipped: HOST_TEST_DATA names no folder with coref-scorer");
        return;
    };
    let text = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let expected: Value = serde_json::from_str(&text("expected.json")).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    for case in cases {
        let file = |key: &str| text(case[key].as_str().unwrap());
        let counts = of_files(&file("key"), &file("response"));
        let scores = [
            ("muc", counts.muc.score()),
            ("bcub", counts.b_cubed.score()),
            ("ceafm", counts.ceaf_m.score()),
            ("ceafe", counts.ceaf_e.score()),
            ("blanc", counts.blanc()),
        ];
        for (name, score) in scores {
            let Some(wanted) = case["expected"].get(name) else { continue };
            let wanted: Vec<f64> = serde_json::from_value(wanted.clone()).unwrap();
            for (found, wanted) in [score.recall, score.precision, score.f1].into_iter().zip(wanted) {
                assert!((found - wanted).abs() <= 1e-4, "{} {name}: {found} and {wanted}", case["id"]);
            }
        }
    }
    assert!(!cases.is_empty());
}

/// The examples of the scorer's test cases in which entities are letters: TC-A
/// to TC-C, and those of the papers on MUC and B³.
#[test]
fn examples_of_the_papers() {
    let entities = |text: &str| -> Vec<Entity> {
        let entity = |word: &str| word.chars().map(|letter| (letter as u32, letter as u32)).collect();
        text.split(' ').map(entity).collect()
    };
    let counts = |key: &str, response: &str| Counts::of(&entities(key), &entities(response));
    let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found} and {wanted}");
    near(counts("ab cde", "bcx de").blanc().f1, 7.0 / 24.0);
    near(counts("ab cde fg", "bcx de fg").blanc().f1, 0.5125);
    let merged = counts("12345 67 89ABC", "12345 6789ABC");
    near(merged.b_cubed.score().precision, 16.0 / 21.0);
    near(merged.muc.score().f1, 2.0 * 0.9 / 1.9);
    near(counts("12345 67 89ABC", "1234589ABC 67").b_cubed.score().precision, 7.0 / 12.0);
    near(counts("ABC DEFG", "AB CD FGH").muc.score().recall, 0.4);
    // Moosavi and Strube 2016, section 4.1: recall and precision of the example.
    let lea = counts("abc defg", "ab cd fghi").lea.score();
    near(lea.recall, (3.0 * 1.0 / 3.0 + 4.0 * 1.0 / 6.0) / 7.0);
    near(lea.precision, (2.0 + 0.0 + 4.0 / 6.0) / 8.0);
    near(counts("a bc", "a bd").lea.score().recall, 1.0 / 3.0);
}

/// A partition of some of the spans of a document, singletons among them.
fn partition(stream: &mut Stream, spans: &[Span], share: f64, entities: u64) -> Vec<Entity> {
    let mut partition = vec![Entity::new(); entities as usize];
    for &span in spans {
        if stream.unit() < share {
            partition[stream.below(entities) as usize].push(span);
        }
    }
    partition.retain(|entity| !entity.is_empty());
    partition
}

/// The definitions, word for word and slowly.
mod slowly {
    use super::*;

    fn has(entity: &Entity, span: Span) -> bool {
        entity.contains(&span)
    }

    pub fn entity_of(entities: &[Entity], span: Span) -> Option<usize> {
        entities.iter().position(|entity| has(entity, span))
    }

    fn common(a: &Entity, b: &Entity) -> f64 {
        a.iter().filter(|&&span| has(b, span)).count() as f64
    }

    /// Vilain et al. 1995: size less the parts into which the other side cuts
    /// an entity, mentions that the other side lacks being parts of their own.
    pub fn muc(entities: &[Entity], others: &[Entity]) -> (f64, f64) {
        entities.iter().fold((0.0, 0.0), |(found, all), entity| {
            let parts: BTreeSet<Result<usize, Span>> =
                entity.iter().map(|&span| entity_of(others, span).ok_or(span)).collect();
            (found + (entity.len() - parts.len()) as f64, all + entity.len() as f64 - 1.0)
        })
    }

    pub fn b_cubed(entities: &[Entity], others: &[Entity]) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for entity in entities {
            for &span in entity {
                sum.1 += 1.0;
                if let Some(other) = entity_of(others, span) {
                    sum.0 += common(entity, &others[other]) / entity.len() as f64;
                }
            }
        }
        sum
    }

    /// The best one-to-one alignment, by trying all.
    pub fn ceaf(key: &[Entity], response: &[Entity], similarity: &dyn Fn(&Entity, &Entity) -> f64) -> f64 {
        let Some((first, rest)) = key.split_first() else { return 0.0 };
        let mut best = ceaf(rest, response, similarity);
        for place in 0..response.len() {
            let mut left = response.to_vec();
            let chosen = left.remove(place);
            best = best.max(similarity(first, &chosen) + ceaf(rest, &left, similarity));
        }
        best
    }

    pub fn by_mentions(a: &Entity, b: &Entity) -> f64 {
        common(a, b)
    }

    pub fn by_entities(a: &Entity, b: &Entity) -> f64 {
        2.0 * common(a, b) / (a.len() + b.len()) as f64
    }

    pub fn lea(entities: &[Entity], others: &[Entity]) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for entity in entities {
            let together = |a: Span, b: Span| {
                entity_of(others, a).is_some() && entity_of(others, a) == entity_of(others, b)
            };
            let (mut links, mut resolved) = (0.0, 0.0);
            for (place, &a) in entity.iter().enumerate() {
                for &b in &entity[place + 1..] {
                    links += 1.0;
                    resolved += f64::from(u8::from(together(a, b)));
                }
            }
            if entity.len() == 1 {
                links = 1.0;
                resolved = f64::from(u8::from(others.contains(entity)));
            }
            sum.0 += entity.len() as f64 * resolved / links;
            sum.1 += entity.len() as f64;
        }
        sum
    }

    /// Pairs of the key's mentions that corefer or do not, those of the
    /// response, and those that are alike in both.
    pub fn blanc(key: &[Entity], response: &[Entity], linked: bool) -> (f64, f64, f64) {
        let spans = |entities: &[Entity]| entities.concat();
        let pairs = |entities: &[Entity]| {
            let all = spans(entities);
            let mut pairs = Vec::new();
            for (place, &a) in all.iter().enumerate() {
                for &b in &all[place + 1..] {
                    if (entity_of(entities, a) == entity_of(entities, b)) == linked {
                        pairs.push((a.min(b), a.max(b)));
                    }
                }
            }
            pairs
        };
        let (of_key, of_response) = (pairs(key), pairs(response));
        let both = of_key.iter().filter(|pair| of_response.contains(pair)).count();
        (both as f64, of_key.len() as f64, of_response.len() as f64)
    }
}

#[test]
fn counts_are_those_of_the_definitions() {
    let mut stream = Stream::new(17, "partitions");
    for case in 0..400 {
        let spans: Vec<Span> = (0..1 + stream.below(12) as u32).map(|word| (word, word + word % 3)).collect();
        let (entities, others) = (1 + stream.below(5), 1 + stream.below(5));
        let key = partition(&mut stream, &spans, 0.8, entities);
        let response = partition(&mut stream, &spans, 0.8, others);
        let counts = Counts::of(&key, &response);
        let near = |name: &str, found: (f64, f64), wanted: (f64, f64)| {
            let close = (found.0 - wanted.0).abs() < 1e-9 && (found.1 - wanted.1).abs() < 1e-9;
            assert!(close, "case {case}, {name}: {found:?} and {wanted:?} of {key:?} and {response:?}");
        };
        near("MUC recall", counts.muc.recall, slowly::muc(&key, &response));
        near("MUC precision", counts.muc.precision, slowly::muc(&response, &key));
        near("B³ recall", counts.b_cubed.recall, slowly::b_cubed(&key, &response));
        near("B³ precision", counts.b_cubed.precision, slowly::b_cubed(&response, &key));
        near("LEA recall", counts.lea.recall, slowly::lea(&key, &response));
        near("LEA precision", counts.lea.precision, slowly::lea(&response, &key));
        let size = |entities: &[Entity]| entities.concat().len() as f64;
        let best = slowly::ceaf(&key, &response, &slowly::by_mentions);
        near("CEAF-m recall", counts.ceaf_m.recall, (best, size(&key)));
        near("CEAF-m precision", counts.ceaf_m.precision, (best, size(&response)));
        let best = slowly::ceaf(&key, &response, &slowly::by_entities);
        near("CEAF-e recall", counts.ceaf_e.recall, (best, key.len() as f64));
        near("CEAF-e precision", counts.ceaf_e.precision, (best, response.len() as f64));
        for (linked, ratio) in [(true, counts.blanc_links), (false, counts.blanc_others)] {
            let (both, of_key, of_response) = slowly::blanc(&key, &response, linked);
            near("BLANC recall", ratio.recall, (both, of_key));
            near("BLANC precision", ratio.precision, (both, of_response));
        }
        assert_eq!(Counts::from_numbers(&counts.numbers()), counts);
    }
}

/// What repeats counts where the response has it first; a repetition in the
/// key counts twice in its sizes.
#[test]
fn repeated_mentions() {
    let (a, b, c, d) = ((0, 0), (1, 1), (2, 2), (3, 3));
    let key = vec![vec![a, b], vec![c, d]];
    let plain = Counts::of(&key, &[vec![a, b], vec![c]]);
    assert_eq!(Counts::of(&key, &[vec![a, a, b], vec![b, c, c], vec![a]]), plain);
    let repeated = Counts::of(&[vec![a, b, b], vec![c, d]], &[vec![a, b], vec![c, d]]);
    assert_eq!(repeated.muc.recall, (2.0, 3.0));
    assert_eq!(repeated.mentions.recall, (4.0, 4.0));
    assert_eq!(repeated.ceaf_m.recall, (5.0, 5.0));
}
