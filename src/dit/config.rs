//! Sizes of a diffusion transformer, given or read off a checkpoint.

use crate::error::{Error, Result};

/// Sizes of an adaLN-zero DiT (Peebles and Xie, arXiv 2212.09748).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks.
    pub depth: usize,
    /// Channels of a token.
    pub hidden: usize,
    /// Attention heads; they divide `hidden`.
    pub heads: usize,
    /// Channels of the MLP.
    pub mlp: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Channels of the latent.
    pub channels: usize,
    /// Channels of the output: `channels`, or twice that with a learned variance.
    pub out_channels: usize,
    /// Side of the latent.
    pub input_size: usize,
    /// Classes without the null class, which is class `classes`.
    pub classes: usize,
    /// Channels of the timestep's sinusoidal embedding.
    pub frequencies: usize,
}

impl Config {
    const fn named(depth: usize, hidden: usize, heads: usize, patch: usize, input_size: usize) -> Self {
        Self {
            depth,
            hidden,
            heads,
            mlp: 4 * hidden,
            patch,
            channels: 4,
            out_channels: 8,
            input_size,
            classes: 1000,
            frequencies: 256,
        }
    }

    /// DiT-S: 12 blocks, 6 heads of 64.
    pub const fn small(patch: usize, input_size: usize) -> Self {
        Self::named(12, 384, 6, patch, input_size)
    }

    /// DiT-B: 12 blocks, 12 heads of 64.
    pub const fn base(patch: usize, input_size: usize) -> Self {
        Self::named(12, 768, 12, patch, input_size)
    }

    /// DiT-L: 24 blocks, 16 heads of 64.
    pub const fn large(patch: usize, input_size: usize) -> Self {
        Self::named(24, 1024, 16, patch, input_size)
    }

    /// DiT-XL: 28 blocks, 16 heads of 72.
    pub const fn xlarge(patch: usize, input_size: usize) -> Self {
        Self::named(28, 1152, 16, patch, input_size)
    }

    /// Tokens of one latent.
    pub const fn tokens(&self) -> usize {
        let side = self.input_size / self.patch;
        side * side
    }

    /// Channels of a head.
    pub const fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Refuses sizes that do not fit each other.
    ///
    /// # Errors
    /// A size of 0, heads that do not divide the channels, a patch that does not divide the
    /// latent, output channels that are neither the latent's nor twice those, an odd number of
    /// frequencies.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("depth", self.depth),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("mlp", self.mlp),
            ("patch", self.patch),
            ("channels", self.channels),
            ("out_channels", self.out_channels),
            ("input_size", self.input_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::Shape(format!("{name} is 0: it must be at least 1")));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(Error::Shape(format!("{} heads do not divide {} channels", self.heads, self.hidden)));
        }
        if !self.input_size.is_multiple_of(self.patch) {
            return Err(Error::Shape(format!(
                "patch {} does not divide the latent's side {}",
                self.patch, self.input_size
            )));
        }
        if self.out_channels != self.channels && self.out_channels != 2 * self.channels {
            return Err(Error::Shape(format!(
                "{} output channels for {} latent channels: as many are needed, or twice that with a learned variance",
                self.out_channels, self.channels
            )));
        }
        if !self.frequencies.is_multiple_of(2) || self.frequencies == 0 {
            return Err(Error::Shape(format!(
                "{} frequencies: cosines and sines need an even number",
                self.frequencies
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_channels_are_the_latent_s_or_twice_those() {
        // Fewer would leave a sampler without its noise estimate.
        for (out_channels, fits) in [(2, false), (4, true), (6, false), (8, true), (12, false)] {
            let config = Config { out_channels, ..Config::small(2, 32) };
            assert_eq!(config.validate().is_ok(), fits, "{out_channels} of 4");
        }
    }
}
