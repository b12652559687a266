//! Key masks: u8, `[B, T+M]`, 1 keeps a key.

use safetensors::tensor::Dtype as FileDtype;
use seqpar::dtype::Dtype;

use crate::engine::{self, Tensors};
use crate::fault::Result;
use crate::tensors::TensorFile;

/// Refuses a mask of another shape or type, or with other values than 0 and 1.
pub(crate) fn check(input: &TensorFile, batch: usize, keys: usize) -> Result<()> {
    if !input.has("key_mask") {
        return Ok(());
    }
    input.need_shape("key_mask", "[B, T+M], text keys first,", &[batch, keys])?;
    input.need_dtype("key_mask", FileDtype::U8)?;
    match input.tensor("key_mask")?.bytes.iter().position(|&value| value > 1) {
        None => Ok(()),
        Some(at) => {
            let value = input.tensor("key_mask")?.bytes[at];
            Err(input.fault("key_mask", format!("has the value {value} at index {at}: use 0 or 1 (1 keeps)")))
        }
    }
}

/// Moves the mask, if there is one, to `tensors`.
pub(crate) fn take(input: &mut TensorFile, tensors: &mut Tensors, [batch, keys]: [usize; 2]) -> Result<()> {
    if input.has("key_mask") {
        let mask = engine::tensor(Dtype::U8, [batch, keys, 1, 1], input.take_bytes("key_mask")?)?;
        tensors.insert("key_mask".into(), mask);
    }
    Ok(())
}
