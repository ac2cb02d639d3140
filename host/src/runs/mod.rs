//! Run directories: where the cells of a run are kept, how finished ones are
//! recognised, and how they are compared.

pub mod chart;
pub mod comparison;
pub mod confidence;
mod copies;
pub mod directory;
pub mod identity;
pub mod machine;
pub mod record;
pub mod report;
pub mod table;
mod trivial;
pub mod words;
