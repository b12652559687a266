//! Samples as a PNG grid, enlarged so that a person can read it.

use crate::fault::{Fault, Result};

/// Screen pixels of one sample pixel along each side.
const ZOOM: usize = 8;
/// Screen pixels around and between samples.
const GAP: usize = 8;
/// Most samples beside each other.
const MOST_COLUMNS: usize = 10;
/// Grey level of the gaps.
const GAP_LEVEL: u8 = 64;
/// Most screen pixels: beyond them, samples are better read from the latents.
const MOST_PIXELS: usize = 1 << 28;

/// Refuses a grid that is too large, before the work.
pub(crate) fn check([count, _, side, _]: [usize; 4]) -> Result<()> {
    Grid::new(count, side).map(|_| ())
}

/// Encodes `samples [n, C, S, S]`, −1 black and 1 white, as a grid: grey for one channel, colour
/// for three, and the mean of the channels otherwise.
pub(crate) fn encode(samples: &[f32], [count, channels, side, _]: [usize; 4]) -> Result<Vec<u8>> {
    let grid = Grid::new(count, side)?;
    let depth = if channels == 3 { 3 } else { 1 };
    let mut pixels = vec![GAP_LEVEL; grid.width * grid.height * depth];
    for (index, sample) in samples.chunks_exact(channels * side * side).enumerate() {
        let (left, top) = grid.corner(index);
        for y in 0..side * ZOOM {
            for x in 0..side * ZOOM {
                let at = y / ZOOM * side + x / ZOOM;
                let value = |c: usize| sample[c * side * side + at];
                let pixel = ((top + y) * grid.width + left + x) * depth;
                if depth == 3 {
                    (0..3).for_each(|c| pixels[pixel + c] = level(value(c)));
                } else {
                    pixels[pixel] = level((0..channels).map(value).sum::<f32>() / channels as f32);
                }
            }
        }
    }
    png(&pixels, grid.width, grid.height, if depth == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale })
}

/// Grey level of a value in [−1, 1]; beyond, the nearer end. NaN is black.
fn level(value: f32) -> u8 {
    ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8
}

struct Grid {
    columns: usize,
    tile: usize,
    width: usize,
    height: usize,
}

impl Grid {
    fn new(count: usize, side: usize) -> Result<Self> {
        let columns = (1..MOST_COLUMNS).find(|n| n * n >= count).unwrap_or(MOST_COLUMNS);
        let rows = count.div_ceil(columns);
        let tile = side.saturating_mul(ZOOM).saturating_add(GAP);
        let (width, height) = (columns.saturating_mul(tile), rows.saturating_mul(tile));
        let (width, height) = (width.saturating_add(GAP), height.saturating_add(GAP));
        match width.checked_mul(height) {
            Some(pixels) if pixels <= MOST_PIXELS => Ok(Self { columns, tile, width, height }),
            _ => Err(Fault::Data(format!("{count} pictures of {side} x {side} are too large for one PNG: use fewer"))),
        }
    }

    fn corner(&self, index: usize) -> (usize, usize) {
        (index % self.columns * self.tile + GAP, index / self.columns * self.tile + GAP)
    }
}

fn png(pixels: &[u8], width: usize, height: usize, color: png::ColorType) -> Result<Vec<u8>> {
    let cannot = |error: png::EncodingError| Fault::Data(format!("cannot encode the PNG: {error}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(cannot)?;
    writer.write_image_data(pixels).map_err(cannot)?;
    writer.finish().map_err(cannot)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> (usize, usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width as usize, info.height as usize, info.color_type.samples(), pixels)
    }

    #[test]
    fn every_pixel_stands_where_the_grid_says() {
        let samples: Vec<f32> = (0..3 * 4).map(|i| i as f32 / 5.5 - 1.0).collect();
        let (width, height, depth, pixels) = decode(&encode(&samples, [3, 1, 2, 2]).unwrap());
        assert_eq!((width, height, depth), (2 * 24 + 8, 2 * 24 + 8, 1));
        for (index, value) in samples.iter().enumerate() {
            let (sample, y, x) = (index / 4, index / 2 % 2, index % 2);
            let at = |dy: usize, dx: usize| {
                let row = sample / 2 * 24 + 8 + y * 8 + dy;
                pixels[row * width + sample % 2 * 24 + 8 + x * 8 + dx]
            };
            assert_eq!([at(0, 0), at(7, 7)], [level(*value); 2], "sample {sample}, pixel ({x}, {y})");
        }
        assert_eq!(pixels[0], GAP_LEVEL);
    }

    #[test]
    fn three_channels_are_colours_and_the_ends_are_clipped() {
        let (_, _, depth, pixels) = decode(&encode(&[-7.0, 0.0, f32::INFINITY], [1, 3, 1, 1]).unwrap());
        assert_eq!(depth, 3);
        let first = (8 * 24 + 8) * 3;
        assert_eq!(pixels[first..first + 3], [0, 128, 255]);
    }
}
