//! The compiled kernels. With feature `kernels` the build has put one fatbin a family into this
//! crate: SASS for sm_80 and sm_90a, PTX for compute_80. Without it there is none.

use super::variants::variants;

/// The fatbin that holds `symbol`, for `cuModuleLoadData`. `None`: no such kernel, or the crate was
/// built without feature `kernels`.
pub fn fatbin(symbol: &str) -> Option<&'static [u8]> {
    let variant = variants().iter().find(|variant| variant.resources.symbol == symbol)?;
    FATBINS.iter().find(|(family, _)| *family == variant.resources.family).map(|(_, bytes)| &bytes.0)
}

/// All fatbins; none without feature `kernels`.
pub fn fatbins() -> impl Iterator<Item = &'static [u8]> {
    FATBINS.iter().map(|(_, bytes)| &bytes.0)
}

/// The driver reads a fatbin's header in words.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

#[cfg(feature = "kernels")]
static FATBINS: &[(&str, &Aligned<[u8]>)] = &include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));
#[cfg(not(feature = "kernels"))]
static FATBINS: &[(&str, &Aligned<[u8]>)] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_a_fatbin_or_none_has() {
        let compiled = cfg!(feature = "kernels");
        for variant in variants() {
            let symbol = &variant.resources.symbol;
            let bytes = fatbin(symbol);
            assert_eq!(bytes.is_some(), compiled, "{symbol}");
            assert!(bytes.is_none_or(|bytes| bytes.starts_with(&0xba55_ed50_u32.to_le_bytes())), "{symbol}");
        }
        assert_eq!(fatbins().count() > 0, compiled);
        assert!(fatbin("no_such_kernel").is_none());
    }
}
