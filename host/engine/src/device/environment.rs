//! Variables of the environment by which a GPU is used otherwise.

use super::DeviceError;

/// Programs are composed of candle's operations alone.
const KERNELS: Choice = Choice { name: "HOST_KERNELS", value: "composed" };

/// The lists of a batch are copied between a GPU's kernels and not beside them.
const COPIES: Choice = Choice { name: "HOST_COPIES", value: "in-turn" };

/// Memory that no array lies in goes back to a GPU's driver whenever it is waited for: for
/// other processes, which else get it when a training has ended.
const MEMORY: Choice = Choice { name: "HOST_MEMORY", value: "returned" };

/// A variable, and the value by which it says something.
struct Choice {
    name: &'static str,
    value: &'static str,
}

impl Choice {
    fn is_made(&self) -> bool {
        std::env::var(self.name).as_deref() == Ok(self.value)
    }

    /// # Errors
    /// A text that is another value.
    fn check(&self, text: Option<&str>) -> Result<(), DeviceError> {
        match text {
            None | Some("") => Ok(()),
            Some(text) if text == self.value => Ok(()),
            Some(text) => Err(DeviceError(format!(
                "{} is \"{text}\"; it says something with the value \"{}\" alone, and is left out otherwise",
                self.name, self.value
            ))),
        }
    }
}

/// # Errors
/// A variable that has a value which says nothing.
pub(super) fn check() -> Result<(), DeviceError> {
    let text =
        |choice: &Choice| std::env::var_os(choice.name).map(|text| text.to_string_lossy().into_owned());
    [KERNELS, COPIES, MEMORY].iter().try_for_each(|choice| choice.check(text(choice).as_deref()))
}

/// Why programs are composed, where they are.
pub(super) fn composes() -> Option<String> {
    KERNELS.is_made().then(|| format!("{} is \"{}\"", KERNELS.name, KERNELS.value))
}

/// Whether a second stream copies the lists of a batch to a GPU.
pub fn copies_beside() -> bool {
    !COPIES.is_made()
}

/// Whether a training keeps the memory of a GPU that it has had.
pub fn keeps_memory() -> bool {
    !MEMORY.is_made()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_says_nothing_is_refused() {
        for text in [None, Some(""), Some("returned")] {
            assert!(MEMORY.check(text).is_ok());
        }
        let error = MEMORY.check(Some("return")).unwrap_err();
        assert!(error.0.contains("HOST_MEMORY is \"return\"") && error.0.contains("\"returned\""), "{error}");
    }
}
