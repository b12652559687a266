//! The weights of a layer, as views of whole inputs.

use super::project::QkvWeights;
use crate::plan::View;

/// `[1, cols, 1, k]` and `[1, 1, 1, cols]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: View,
    pub(crate) bias: Option<View>,
}

/// Weights of one layer for one segment.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    pub(crate) qkv: QkvWeights,
    pub(crate) proj: Linear,
    pub(crate) mlp: Option<(Linear, Linear)>,
}

/// Weights for the image and, where there is text, for the text.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) image: LayerWeights,
    pub(crate) text: Option<LayerWeights>,
}
