//! The stemmer of Porter (1980, "An algorithm for suffix stripping") with the
//! extensions of NLTK, which rouge-score takes.

/// Words whose stem is listed.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// The stem of a word of lower-case ASCII letters and digits.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).into();
    }
    if word.len() <= 2 {
        return word.into();
    }
    let mut stem = plurals(word);
    stem = past_and_progressive(&stem);
    stem = final_y(&stem);
    stem = double_suffixes(&stem);
    stem = first_rule(&stem, &STEP_3, |stem, _| measure(stem) > 0);
    stem = first_rule(&stem, &STEP_4, |stem, suffix| {
        measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']))
    });
    final_l(&final_e(&stem))
}

/// Whether each letter is a consonant: no vowel, and no y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|consonant| !consonant),
            _ => true,
        });
    }
    flags
}

/// The m of the paper: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() >= 2
        && letters[letters.len() - 1] == letters[letters.len() - 2]
        && consonants(word).last() == Some(&true)
}

/// Consonant, vowel, consonant at the end, the last none of w, x and y; or a
/// vowel and a consonant alone.
fn ends_short(word: &str) -> bool {
    match consonants(word).as_slice() {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

/// The rule of the first suffix that fits is applied if the stem meets the
/// condition; no further rule is tried.
fn first_rule(word: &str, rules: &[(&str, &str)], condition: impl Fn(&str, &str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return match condition(stem, suffix) {
                true => format!("{stem}{replacement}"),
                false => word.into(),
            };
        }
    }
    word.into()
}

/// Step 1a.
fn plurals(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].into();
    }
    first_rule(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_, _| true)
}

/// Step 1b.
fn past_and_progressive(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word.into() };
    }
    let mut stems = ["ed", "ing"].into_iter().filter_map(|suffix| word.strip_suffix(suffix));
    let Some(stem) = stems.find(|stem| has_vowel(stem)) else { return word.into() };
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        return format!("{stem}e");
    }
    if ends_in_double_consonant(stem) {
        return if stem.ends_with(['l', 's', 'z']) { stem.into() } else { stem[..stem.len() - 1].into() };
    }
    if measure(stem) == 1 && ends_short(stem) { format!("{stem}e") } else { stem.into() }
}

/// Step 1c: y becomes i after a consonant that is not the first letter.
fn final_y(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(&true) => format!("{stem}i"),
        _ => word.into(),
    }
}

const STEP_2: [(&str, &str); 22] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

/// Step 2; what ends in "alli" goes through it once more.
fn double_suffixes(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffixes(&format!("{stem}al"));
    }
    first_rule(word, &STEP_2, |stem, suffix| match suffix {
        // The l of "logi" counts as the stem's.
        "logi" => measure(&word[..stem.len() + 1]) > 0,
        _ => measure(stem) > 0,
    })
}

const STEP_3: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const STEP_4: [(&str, &str); 19] = [
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ion", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
];

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => stem.into(),
        _ => word.into(),
    }
}

/// Step 5b.
fn final_l(word: &str) -> String {
    match word.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem.into(),
        _ => word.into(),
    }
}

#[cfg(test)]
mod tests {
    /// Stems of NLTK, written by tests/reference/rouge.py.
    #[test]
    fn stems_are_those_of_nltk() {
        let text = include_str!("../../../../tests/golden/rouge.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let stems = golden["stems"].as_object().unwrap();
        for (word, wanted) in stems {
            assert_eq!(super::stem(word), wanted.as_str().unwrap(), "{word}");
        }
        assert!(stems.len() > 1000);
    }
}
