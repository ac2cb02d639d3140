//! Random numbers that are a function of their place: the same seed and name
//! give the same numbers on any machine, in any order of asking.

/// Mixes the bits of a number (the finaliser of SplitMix64, Steele et al. 2014).
pub const fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number for a name (FNV-1a, mixed).
pub fn name_key(name: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// A stream of random numbers with a key; the n-th number depends on the key
/// and on n alone.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    place: u64,
}

impl Stream {
    /// The stream of a seed and of a name under it.
    pub fn new(seed: u64, name: &str) -> Stream {
        Stream { key: mix(seed ^ name_key(name)), place: 0 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.place += 1;
        mix(self.key ^ mix(self.place))
    }

    /// The stream after so many numbers more.
    #[must_use]
    pub fn after(&self, numbers: u64) -> Stream {
        Stream { place: self.place + numbers, ..*self }
    }

    /// Uniform in [0, 1), with 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform whole number below `bound`, which is not 0 (Lemire 2019, with
    /// the multiplication's remainder left in: a bias below 2^-32 for any
    /// bound that fits 32 bits).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Standard normal (Box and Muller 1958), of two numbers of the stream.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A uniform permutation (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            items.swap(end, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(7, "moments");
        let count = 200_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            let normal = stream.normal();
            sum += normal;
            squares += normal * normal;
            uniform += stream.unit();
        }
        let count = f64::from(count);
        assert!((sum / count).abs() < 0.01);
        assert!((squares / count - 1.0).abs() < 0.01);
        assert!((uniform / count - 0.5).abs() < 0.005);
    }

    #[test]
    fn streams_of_other_names_differ() {
        let draw = |name| Stream::new(1, name).bits();
        assert_eq!(draw("a"), draw("a"));
        assert_ne!(draw("a"), draw("b"));
    }
}
