//! All that can go wrong with a plugin, one case each, as sentences.

use host_ir::record::RecordError;

/// Why a plugin cannot be used, with its name and the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}{}: {problem}", call.map_or(String::new(), |call| format!(", in its {call}")))]
pub struct PluginError {
    /// Name, version and where it comes from, as far as known.
    pub origin: String,
    /// The exported function that was called.
    pub call: Option<&'static str>,
    pub problem: Problem,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("this is no WebAssembly component, nor a module that carries its world: {0}")]
    NotAComponent(String),
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    #[error("the module exports nothing of the contract; is the `export!` of the SDK forgotten?")]
    NoExports,
    #[error(
        "it imports {0}, which no plugin gets: files, clocks, networks and randomness stay outside the sandbox. Build it for wasm32-unknown-unknown"
    )]
    WantsWasi(String),
    #[error("it imports {0}, which is not part of the contract peft:plugin@{version}", version = crate::plugin::CONTRACT)]
    UnknownImport(String),
    #[error("it wants {wanted} of the contract {version}, and this program offers {offered}: update the program", offered = crate::plugin::CONTRACT)]
    NewerContract { wanted: String, version: String },
    #[error("it was built against another draft of the contract, build it again: {0}")]
    OtherDraft(String),
    #[error("a {wanted} plugin is wanted, and this is a {has} plugin")]
    WrongKind { wanted: &'static str, has: &'static str },
    #[error("it ran out of fuel: it does not end, or does far more than a plan needs")]
    OutOfFuel,
    #[error("it did not answer within {0} seconds")]
    TimedOut(u64),
    #[error("it wanted more than {0} MiB of memory")]
    OutOfMemory(usize),
    #[error("it panicked: {message}{}", place.as_ref().map_or(String::new(), |place| format!(" (its last operation was at {place})")))]
    Panicked { message: String, place: Option<String> },
    #[error("it trapped: {message}{}", place.as_ref().map_or(String::new(), |place| format!(" (its last operation was at {place})")))]
    Trapped { message: String, place: Option<String> },
    /// A call of the contract that is wrong, or a refused setting.
    #[error(transparent)]
    Refused(RecordError),
    /// The plugin's own sentence.
    #[error("{0}")]
    Said(String),
}
