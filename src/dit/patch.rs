//! Latents to tokens and back. A token's channels are `(C, p, p)` on the way in, the order of the
//! patch embedding's convolution weight, and `(p, p, C)` on the way out, the order of the final
//! linear's columns.

use super::config::Config;

/// `latent [B, C, S, S]` to `[B, N, C·p·p]`.
pub fn patchify(config: &Config, batch: usize, latent: &[f32]) -> Vec<f32> {
    let (c, p, size) = (config.channels, config.patch, config.input_size);
    let side = size / p;
    let mut tokens = Vec::with_capacity(latent.len());
    for b in 0..batch {
        for (row, col) in (0..side).flat_map(|row| (0..side).map(move |col| (row, col))) {
            for channel in 0..c {
                for y in 0..p {
                    let at = ((b * c + channel) * size + row * p + y) * size + col * p;
                    tokens.extend_from_slice(&latent[at..at + p]);
                }
            }
        }
    }
    tokens
}

/// `tokens [B, N, p·p·Cout]` to `[B, Cout, S, S]`.
pub fn unpatchify(config: &Config, batch: usize, tokens: &[f32]) -> Vec<f32> {
    let (c, p, size) = (config.out_channels, config.patch, config.input_size);
    let side = size / p;
    let mut latent = vec![0.0; batch * c * size * size];
    let mut values = tokens.iter();
    for b in 0..batch {
        for (row, col) in (0..side).flat_map(|row| (0..side).map(move |col| (row, col))) {
            for (y, x) in (0..p).flat_map(|y| (0..p).map(move |x| (y, x))) {
                for channel in 0..c {
                    let at = ((b * c + channel) * size + row * p + y) * size + col * p + x;
                    latent[at] = values.next().copied().unwrap_or(f32::NAN);
                }
            }
        }
    }
    latent
}
