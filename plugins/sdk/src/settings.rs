//! Settings: a plugin is a struct of them, and asking for a key declares it.

use std::ops::RangeInclusive;

use crate::method::Site;
use crate::raw;

/// A struct of settings; implemented by [`crate::config!`].
pub trait Config: Sized {
    /// Asks the host for every key.
    fn ask() -> Self;
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// Bounds of the key's values.
    type Bounds;
    fn ask(key: &str, default: Self, bounds: Option<Self::Bounds>, documentation: &str) -> Self;
}

/// Types without bounds.
pub enum Unbounded {}

impl Setting for u32 {
    type Bounds = RangeInclusive<u32>;

    fn ask(key: &str, default: u32, bounds: Option<Self::Bounds>, documentation: &str) -> u32 {
        let bounds = bounds.unwrap_or(0..=i32::MAX as u32);
        let (low, high) = (i64::from(*bounds.start()), i64::from(*bounds.end()));
        raw::whole(key, i64::from(default), low, high, documentation) as u32
    }
}

impl Setting for f64 {
    type Bounds = RangeInclusive<f64>;

    fn ask(key: &str, default: f64, bounds: Option<Self::Bounds>, documentation: &str) -> f64 {
        let bounds = bounds.unwrap_or(f64::NEG_INFINITY..=f64::INFINITY);
        raw::real(key, default, *bounds.start(), *bounds.end(), documentation)
    }
}

impl Setting for bool {
    type Bounds = Unbounded;

    fn ask(key: &str, default: bool, _: Option<Unbounded>, documentation: &str) -> bool {
        raw::boolean(key, default, documentation)
    }
}

impl Setting for String {
    type Bounds = Unbounded;

    fn ask(key: &str, default: String, _: Option<Unbounded>, documentation: &str) -> String {
        raw::text(key, &default, documentation)
    }
}

impl Setting for Option<String> {
    type Bounds = Unbounded;

    fn ask(key: &str, _: Option<String>, _: Option<Unbounded>, documentation: &str) -> Option<String> {
        raw::optional_text(key, documentation)
    }
}

impl Setting for Vec<String> {
    type Bounds = Unbounded;

    fn ask(key: &str, default: Vec<String>, _: Option<Unbounded>, documentation: &str) -> Vec<String> {
        raw::texts(key, &default, documentation)
    }
}

/// A table from names, or regular expressions, to numbers: `rank_pattern`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patterns(pub Vec<(String, f64)>);

impl Patterns {
    /// Refuses a pattern that matches none of the sites; `key` is what the user calls them.
    ///
    /// # Errors
    /// A sentence about the first.
    pub fn all_match(&self, key: &str, sites: &[Site]) -> Result<(), String> {
        let alone = |(pattern, number): &(String, f64)| Patterns(vec![(pattern.clone(), *number)]);
        let idle = self.0.iter().find(|pattern| {
            let pattern = alone(pattern);
            !sites.iter().any(|site| site.lookup(&pattern).is_some())
        });
        match idle {
            Some((pattern, _)) => Err(format!(
                "{key} has \"{pattern}\", which matches no module that is adapted; a pattern is the end of a \
                 module's name, or a regular expression of it, such as \"{}\"",
                sites.first().map_or(String::new(), |site| site.name())
            )),
            None => Ok(()),
        }
    }
}

impl Setting for Patterns {
    type Bounds = Unbounded;

    fn ask(key: &str, _: Patterns, _: Option<Unbounded>, documentation: &str) -> Patterns {
        Patterns(raw::numbers(key, documentation))
    }
}

/// The choice of modules as peft's configs have it: `target_modules`,
/// `exclude_modules`, `layers_to_transform`, `layers_pattern`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Empty where the user said nothing: the method's default applies.
    pub(crate) target_modules: raw::Selection,
    pub(crate) exclude_modules: raw::Selection,
    pub(crate) layers_to_transform: Vec<u32>,
    pub(crate) layers_pattern: Vec<String>,
}

impl Targets {
    /// The targets with a default for users who named none.
    pub fn or(&self, names: &[&str]) -> Targets {
        let mut targets = self.clone();
        if targets.target_modules.values.is_empty() {
            targets.target_modules.values = names.iter().map(|name| name.to_string()).collect();
        }
        targets
    }
}

impl Setting for Targets {
    type Bounds = Unbounded;

    fn ask(_: &str, default: Targets, _: Option<Unbounded>, documentation: &str) -> Targets {
        let layers = raw::wholes(
            "layers_to_transform",
            &[],
            "Layers, counted from 0, to which the targets are narrowed; all where it is empty.",
        );
        Targets {
            target_modules: raw::names_or_pattern("target_modules", &default.target_modules, documentation),
            exclude_modules: raw::names_or_pattern(
                "exclude_modules",
                &default.exclude_modules,
                "Modules to leave out: a list of names, or a regular expression.",
            ),
            layers_to_transform: layers.into_iter().map(|layer| layer as u32).collect(),
            layers_pattern: raw::texts(
                "layers_pattern",
                &[],
                "Names of the list of layers, where the layer is not the first number of a module's name.",
            ),
        }
    }
}

/// Defines a struct of settings: documentation, name, type and default of each
/// key in one line, with bounds after `=>`.
///
/// ```ignore
/// config! {
///     pub struct Lora {
///         /// Rank of the update.
///         r: u32 = 8 => 1..=65_536,
///     }
/// }
/// ```
#[macro_export]
macro_rules! config {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident {
        $($(#[doc = $documentation:literal])+ $key:ident: $kind:ty = $default:expr $(=> $bounds:expr)?,)*
    }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        $visibility struct $name {
            $($(#[doc = $documentation])+ $key: $kind,)*
        }

        impl $crate::settings::Config for $name {
            fn ask() -> Self {
                $name {
                    $($key: {
                        #[allow(unused_mut, unused_assignments)]
                        let mut bounds = ::std::option::Option::None;
                        $(bounds = ::std::option::Option::Some($bounds);)?
                        let documentation = concat!($($documentation),+).trim();
                        <$kind as $crate::settings::Setting>::ask(stringify!($key), $default, bounds, documentation)
                    },)*
                }
            }
        }
    };
}

/// Defines a setting that takes one of a few words.
#[macro_export]
macro_rules! choice {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($variant,)* }

        impl $crate::settings::Setting for $name {
            type Bounds = $crate::settings::Unbounded;

            fn ask(key: &str, default: Self, _: ::std::option::Option<Self::Bounds>, documentation: &str) -> Self {
                let options = [$((Self::$variant, $word)),*];
                let words: ::std::vec::Vec<::std::string::String> = options.iter().map(|(_, word)| word.to_string()).collect();
                let default_word = options.iter().find(|(option, _)| *option == default).map_or("", |(_, word)| word);
                let answer = $crate::settings::ask_choice(key, default_word, &words, documentation);
                options.iter().find(|(_, word)| *word == answer).map_or(default, |(option, _)| *option)
            }
        }
    };
}

/// The word that the user chose; for [`crate::choice!`].
pub fn ask_choice(key: &str, default: &str, options: &[String], documentation: &str) -> String {
    raw::choice(key, default, options, documentation)
}

/// Refuses the user's value of a key; the call ends.
pub fn reject(key: &str, sentence: &str) {
    raw::reject_setting(key, sentence);
}
