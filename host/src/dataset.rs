//! What `host data` says of the data: plain data through which the command line
//! and the session meet.

/// Examples of each class of a label.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassCounts {
    pub field: String,
    /// By name, in the order of the classes.
    pub classes: Vec<(String, u64)>,
    /// Examples without a label.
    pub missing: u64,
}

/// Gold spans of words, such as those of names: how many there are, and how many groups
/// of them have one number in an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanCounts {
    pub field: String,
    pub spans: u64,
    pub groups: u64,
    /// Examples without them.
    pub missing: u64,
}

/// Numbers of tokens, of the sequences of a split or of its targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lengths {
    pub shortest: u64,
    pub median: u64,
    pub mean: f64,
    /// 95 of 100 are at most so long.
    pub most: u64,
    pub longest: u64,
}

/// An example as the model reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownExample {
    /// File and line.
    pub origin: String,
    /// Fields with the names of their labels.
    pub labels: Vec<(String, Option<String>)>,
    /// Its sequences, each as segments with their numbers and tokens.
    pub sequences: Vec<Vec<(u32, Vec<String>)>>,
    /// The tokens that stood where noise has masked something.
    pub masked: Vec<String>,
    /// Fields of spans, and of each the words of the spans by their numbers.
    pub spans: Vec<(String, Vec<Vec<String>>)>,
    /// The tokens that a decoder should say; none where there is nothing to say.
    pub target: Vec<String>,
}

/// What a decoder should say of a split's examples.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetReport {
    pub lengths: Lengths,
    /// Targets that were cut to the longest.
    pub cut: u64,
    /// Examples without one.
    pub missing: u64,
}

/// A split of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitReport {
    pub name: String,
    pub files: Vec<String>,
    pub examples: u64,
    pub classes: Vec<ClassCounts>,
    pub spans: Vec<SpanCounts>,
    pub sequences: u64,
    pub lengths: Lengths,
    /// Sequences that were cut to `room` tokens.
    pub cut: u64,
    pub room: u64,
    /// None of a task whose answers are not said by a decoder.
    pub targets: Option<TargetReport>,
    /// Examples of which the same text stood in the split before.
    pub repeated: u64,
    /// Why a run would not train on it.
    pub refused: Option<String>,
    pub shown: Vec<ShownExample>,
}

/// All splits of the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataReport {
    pub splits: Vec<SplitReport>,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}
