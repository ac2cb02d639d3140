//! Choosing sites by a user's names and patterns, with peft's rules
//! (`target_modules`, `exclude_modules`, `layers_to_transform`,
//! `layers_pattern`, `rank_pattern`).

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::model::{ModelDescription, SiteId, SiteKind};
use crate::settings::did_you_mean;

/// A list of names, or one regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamesOrPattern {
    Names(Vec<String>),
    Pattern(String),
}

/// The pattern that takes every site of a kind but the output layer.
const ALL: &str = "all-linear";

/// A user's choice of sites.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    pub kind: SiteKind,
    pub targets: &'a NamesOrPattern,
    pub exclude: &'a NamesOrPattern,
    pub layers: &'a [u32],
    pub layers_patterns: &'a [String],
}

/// A regular expression that must match in full; the error is a sentence.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| format!("the pattern \"{pattern}\" is not a regular expression: {error}"))
}

/// Whether a module's name is `name`, or ends in it after a point.
fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// The last part of a module's name.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The sites that a choice takes, in the order of computation.
///
/// # Errors
/// A sentence about the first name, pattern or layer that takes nothing.
pub fn select(model: &ModelDescription, selection: &Selection<'_>) -> Result<Vec<SiteId>, String> {
    let all = model.sites(selection.kind);
    let mut chosen = matching(model, &all, selection.targets, "target_modules")?;
    let none = matches!(selection.exclude, NamesOrPattern::Names(names) if names.is_empty());
    if !none {
        let excluded = matching(model, &all, selection.exclude, "exclude_modules")?;
        chosen.retain(|site| !excluded.contains(site));
    }
    if !selection.layers_patterns.is_empty() && selection.layers.is_empty() {
        return Err("layers_pattern says where layers are counted, and layers_to_transform, which says \
                    which of them are meant, is not given"
            .into());
    }
    if !selection.layers.is_empty() {
        chosen = in_layers(model, &chosen, selection)?;
    }
    match chosen.is_empty() {
        true => {
            Err("target_modules, exclude_modules and layers_to_transform together leave no module".into())
        }
        false => Ok(chosen),
    }
}

fn matching(
    model: &ModelDescription,
    sites: &[SiteId],
    choice: &NamesOrPattern,
    key: &str,
) -> Result<Vec<SiteId>, String> {
    let name = |site: &SiteId| model.module(*site).name.as_str();
    match choice {
        NamesOrPattern::Pattern(pattern) if pattern == ALL => {
            Ok(sites.iter().copied().filter(|&site| model.output_layer != Some(site)).collect())
        }
        NamesOrPattern::Pattern(pattern) => {
            let pattern_whole = whole(pattern)?;
            let found: Vec<SiteId> =
                sites.iter().copied().filter(|site| pattern_whole.is_match(name(site))).collect();
            match found.is_empty() {
                true => Err(format!(
                    "{key} = \"{pattern}\" matches no module; a pattern must match the whole name, such as \"{}\"",
                    sites.first().map_or("", name)
                )),
                false => Ok(found),
            }
        }
        NamesOrPattern::Names(names) => {
            for wanted in names {
                if !sites.iter().any(|site| is_named(name(site), wanted)) {
                    let mut of_head = model.modules.iter().filter(|module| module.head);
                    if let Some(module) = of_head.find(|module| is_named(&module.name, wanted)) {
                        return Err(format!(
                            "{key} names \"{wanted}\": {} belongs to the head made for the task, which trains \
                             as a whole with every method and is no target",
                            module.name
                        ));
                    }
                    let mut known: Vec<&str> = sites.iter().map(|site| last_part(name(site))).collect();
                    known.sort_unstable();
                    known.dedup();
                    return Err(format!(
                        "{key} names \"{wanted}\", which no module of the model is called{}",
                        did_you_mean(wanted, &known)
                    ));
                }
            }
            let taken = |site: &SiteId| names.iter().any(|wanted| is_named(name(site), wanted));
            Ok(sites.iter().copied().filter(taken).collect())
        }
    }
}

fn in_layers(
    model: &ModelDescription,
    sites: &[SiteId],
    selection: &Selection<'_>,
) -> Result<Vec<SiteId>, String> {
    let patterns: Vec<Regex> = match selection.layers_patterns {
        [] => vec![whole(r".*?\.(\d+)\..*")?],
        names => {
            names.iter().map(|name| whole(&format!(r".*?\.{name}\.(\d+)\..*"))).collect::<Result<_, _>>()?
        }
    };
    let layer = |site: &SiteId| -> Option<u32> {
        let name = &model.module(*site).name;
        patterns.iter().find_map(|pattern| pattern.captures(name)?[1].parse().ok())
    };
    for wanted in selection.layers {
        if !sites.iter().any(|site| layer(site) == Some(*wanted)) {
            let last = sites.iter().filter_map(layer).max();
            let there = last.map_or("none with these patterns".into(), |last| format!("0 to {last}"));
            return Err(format!(
                "layers_to_transform names layer {wanted}, in which no target stands; layers: {there}"
            ));
        }
    }
    let taken = |site: &SiteId| layer(site).is_some_and(|layer| selection.layers.contains(&layer));
    Ok(sites.iter().copied().filter(taken).collect())
}

/// The place of the first key that matches a name as peft's `rank_pattern`
/// does: the regular expression `(.*\.)?(key)$`.
///
/// # Errors
/// A sentence about a key that is not a regular expression.
pub fn lookup(name: &str, keys: &[String]) -> Result<Option<u32>, String> {
    for (place, key) in keys.iter().enumerate() {
        if whole(&format!(r"(?:.*\.)?(?:{key})"))?.is_match(name) {
            return Ok(Some(place as u32));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Module;

    fn model() -> ModelDescription {
        let mut model = ModelDescription::default();
        for layer in 0..2 {
            for part in ["attention.self.query", "attention.self.value", "output.dense"] {
                model.modules.push(Module {
                    name: format!("bert.encoder.layer.{layer}.{part}"),
                    kind: SiteKind::Linear,
                    layer: Some(layer),
                    inputs: 4,
                    outputs: 4,
                    weight: None,
                    bias: None,
                    head: false,
                });
            }
        }
        model
    }

    fn chosen(targets: NamesOrPattern, exclude: &[&str], layers: &[u32]) -> Result<Vec<u32>, String> {
        let selection = Selection {
            kind: SiteKind::Linear,
            targets: &targets,
            exclude: &NamesOrPattern::Names(exclude.iter().map(|name| name.to_string()).collect()),
            layers,
            layers_patterns: &[],
        };
        Ok(select(&model(), &selection)?.iter().map(|site| site.0).collect())
    }

    fn names(names: &[&str]) -> NamesOrPattern {
        NamesOrPattern::Names(names.iter().map(|name| name.to_string()).collect())
    }

    #[test]
    fn names_match_at_the_end_and_patterns_in_full() {
        assert_eq!(chosen(names(&["query", "value"]), &[], &[]), Ok(vec![0, 1, 3, 4]));
        assert_eq!(chosen(names(&["self.query"]), &[], &[1]), Ok(vec![3]));
        assert_eq!(chosen(NamesOrPattern::Pattern(r".*\.0\..*query".into()), &[], &[]), Ok(vec![0]));
        assert_eq!(
            chosen(NamesOrPattern::Pattern("all-linear".into()), &["dense"], &[]),
            Ok(vec![0, 1, 3, 4])
        );
    }

    #[test]
    fn what_matches_nothing_is_named_with_what_is_near() {
        let error = chosen(names(&["qeury"]), &[], &[]).unwrap_err();
        assert_eq!(
            error,
            "target_modules names \"qeury\", which no module of the model is called; did you mean `query`?"
        );
        assert!(
            chosen(NamesOrPattern::Pattern("query".into()), &[], &[]).unwrap_err().contains("the whole name")
        );
        assert!(chosen(names(&["query"]), &[], &[7]).unwrap_err().contains("layer 7"));
        assert!(
            chosen(NamesOrPattern::Pattern("(".into()), &[], &[])
                .unwrap_err()
                .contains("not a regular expression")
        );
    }

    #[test]
    fn the_first_key_that_matches_wins() {
        let keys = ["value".to_string(), r"layer\.1\..*".to_string()];
        assert_eq!(lookup("bert.encoder.layer.1.attention.self.value", &keys), Ok(Some(0)));
        assert_eq!(lookup("bert.encoder.layer.1.attention.self.query", &keys), Ok(Some(1)));
        assert_eq!(lookup("bert.encoder.layer.0.attention.self.query", &keys), Ok(None));
    }

    /// As peft leaves out the output embeddings; a head's modules are no sites at all.
    #[test]
    fn the_output_layer_is_taken_by_name_and_a_head_is_not() {
        let mut model = model();
        let more = |name: &str, head: bool| Module { name: name.into(), head, ..model.modules[0].clone() };
        let [output, head] = [more("lm_head", false), more("classifier.dense", true)];
        model.modules.extend([output, head]);
        model.output_layer = Some(SiteId(6));
        let none = NamesOrPattern::Names(Vec::new());
        let taken = |targets: NamesOrPattern| {
            let kind = SiteKind::Linear;
            let selection =
                Selection { kind, targets: &targets, exclude: &none, layers: &[], layers_patterns: &[] };
            select(&model, &selection).map(|sites| sites.len())
        };
        assert_eq!(taken(NamesOrPattern::Pattern("all-linear".into())), Ok(6));
        assert_eq!(taken(names(&["lm_head", "query"])), Ok(3));
        let error = taken(names(&["classifier.dense"])).unwrap_err();
        assert!(error.contains("classifier.dense belongs to the head made for the task"), "{error}");
    }
}
