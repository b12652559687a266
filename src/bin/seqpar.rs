//! seqpar command line
fn main() {}
