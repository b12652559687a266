//! Not written yet.
/// m
pub struct Memory;
