//! Which kernels take an attention.

use super::super::kernels::{self, Kernel};
use super::super::launch::Own;
use super::super::numbers::{Attention, BiasedAttention};
use super::{Packed, Result};
use crate::backend::BackendError;
use crate::backend::candle::ATTENTION_COLUMNS;
use crate::device::Precision;

/// The kernels for heads of so many columns at most, whose products of tiles are in a
/// precision: of the forward pass, and for the gradients of queries and of keys and values.
pub struct Kernels {
    columns: usize,
    precision: Precision,
    pub forward: Kernel<Attention>,
    pub queries: Kernel<Attention>,
    pub keys: Kernel<Attention>,
}

const KERNELS: [Kernels; 6] = [
    Kernels {
        columns: 32,
        precision: Precision::Fp32,
        forward: kernels::ATTENTION_32,
        queries: kernels::ATTENTION_QUERIES_32,
        keys: kernels::ATTENTION_KEYS_32,
    },
    Kernels {
        columns: 32,
        precision: Precision::Tf32,
        forward: kernels::ATTENTION_32_TF32,
        queries: kernels::ATTENTION_QUERIES_32_TF32,
        keys: kernels::ATTENTION_KEYS_32_TF32,
    },
    Kernels {
        columns: 32,
        precision: Precision::Bf16,
        forward: kernels::ATTENTION_32_BF16,
        queries: kernels::ATTENTION_QUERIES_32_BF16,
        keys: kernels::ATTENTION_KEYS_32_BF16,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Fp32,
        forward: kernels::ATTENTION_64,
        queries: kernels::ATTENTION_QUERIES_64,
        keys: kernels::ATTENTION_KEYS_64,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Tf32,
        forward: kernels::ATTENTION_64_TF32,
        queries: kernels::ATTENTION_QUERIES_64_TF32,
        keys: kernels::ATTENTION_KEYS_64_TF32,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Bf16,
        forward: kernels::ATTENTION_64_BF16,
        queries: kernels::ATTENTION_QUERIES_64_BF16,
        keys: kernels::ATTENTION_KEYS_64_BF16,
    },
];

/// Those of scores that depend on the places of query and key: by a bias, or as a query sees no
/// key behind its own.
const PLACED: [Kernels; 3] = [
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Fp32,
        forward: kernels::ATTENTION_64_PLACED,
        queries: kernels::ATTENTION_QUERIES_64_PLACED,
        keys: kernels::ATTENTION_KEYS_64_PLACED,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Tf32,
        forward: kernels::ATTENTION_64_PLACED_TF32,
        queries: kernels::ATTENTION_QUERIES_64_PLACED_TF32,
        keys: kernels::ATTENTION_KEYS_64_PLACED_TF32,
    },
    Kernels {
        columns: ATTENTION_COLUMNS,
        precision: Precision::Bf16,
        forward: kernels::ATTENTION_64_PLACED_BF16,
        queries: kernels::ATTENTION_QUERIES_64_PLACED_BF16,
        keys: kernels::ATTENTION_KEYS_64_PLACED_BF16,
    },
];

/// The kernels whose blocks have a head of a sequence, of so many queries and keys at most and so
/// many columns, with products of bf16: of the forward pass, and for all gradients.
pub struct Whole {
    rows: usize,
    columns: usize,
    pub forward: Kernel<Attention>,
    pub gradients: Kernel<Attention>,
}

/// Those for fewer rows first.
const WHOLE: [Whole; 4] = [
    Whole {
        rows: 64,
        columns: 32,
        forward: kernels::ATTENTION_WHOLE_64_32,
        gradients: kernels::ATTENTION_WHOLE_GRADIENTS_64_32,
    },
    Whole {
        rows: 64,
        columns: ATTENTION_COLUMNS,
        forward: kernels::ATTENTION_WHOLE_64_64,
        gradients: kernels::ATTENTION_WHOLE_GRADIENTS_64_64,
    },
    Whole {
        rows: 128,
        columns: 32,
        forward: kernels::ATTENTION_WHOLE_128_32,
        gradients: kernels::ATTENTION_WHOLE_GRADIENTS_128_32,
    },
    Whole {
        rows: 128,
        columns: ATTENTION_COLUMNS,
        forward: kernels::ATTENTION_WHOLE_128_64,
        gradients: kernels::ATTENTION_WHOLE_GRADIENTS_128_64,
    },
];

impl Own {
    /// The kernels for whole sequences; none where these are too long for them, products are not of
    /// bf16, scores depend on places, or the device has too little shared memory.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn whole(&self, packed: &Packed) -> Result<Option<&'static Whole>> {
        let size = packed.numbers.size as usize;
        let fits = |whole: &&Whole| packed.longest <= whole.rows && size <= whole.columns;
        let Some(whole) = WHOLE.iter().find(fits) else { return Ok(None) };
        let takes = self.precision == Precision::Bf16 && !packed.by_place();
        Ok((takes && self.takes(&whole.forward)? && self.takes(&whole.gradients)?).then_some(whole))
    }

    /// The kernels for heads of a size; none where it is too large for them.
    fn kernels(&self, size: usize, by_place: bool) -> Option<&'static Kernels> {
        let fits = |kernels: &&Kernels| size <= kernels.columns && kernels.precision == self.precision;
        if by_place { PLACED.iter().find(fits) } else { KERNELS.iter().find(fits) }
    }

    /// The same, where there must be some.
    pub(super) fn known(&self, packed: &Packed) -> Result<&'static Kernels> {
        let size = packed.numbers.size as usize;
        let none = || BackendError::Wrong(format!("no kernel takes heads of {size} columns"));
        self.kernels(size, packed.by_place()).ok_or_else(none)
    }

    /// The kernel for the gradient of biases.
    pub(super) fn of_biases(&self) -> &'static Kernel<BiasedAttention> {
        match self.precision {
            Precision::Fp32 => &kernels::ATTENTION_BIASES_64,
            Precision::Tf32 | Precision::Bf16 => &kernels::ATTENTION_BIASES_64_TF32,
        }
    }

    /// Whether there are kernels for attention with heads of a size, forward and backward, whose
    /// scores depend on places or do not.
    ///
    /// # Errors
    /// What the driver says.
    pub fn attends(&self, size: usize, by_place: bool) -> Result<bool> {
        let Some(kernels) = self.kernels(size, by_place) else { return Ok(false) };
        let Kernels { forward, queries, keys, .. } = kernels;
        Ok(self.takes(forward)? && self.takes(queries)? && self.takes(keys)?)
    }

    /// Whether there is a kernel for the gradient of biases.
    ///
    /// # Errors
    /// What the driver says.
    pub fn gives_bias_gradients(&self) -> Result<bool> {
        self.takes(self.of_biases())
    }

    /// The names of the kernels for the context, and for the gradients of queries, of keys and
    /// values, and of biases.
    ///
    /// # Errors
    /// As [`Self::attention`].
    pub fn attention_names(&self, packed: &Packed) -> Result<[&'static str; 4]> {
        let of_biases = self.of_biases().name;
        if let Some(Whole { forward, gradients, .. }) = self.whole(packed)? {
            return Ok([forward.name, gradients.name, gradients.name, of_biases]);
        }
        let Kernels { forward, queries, keys, .. } = self.known(packed)?;
        Ok([forward.name, queries.name, keys.name, of_biases])
    }
}
