pub fn task(_: &str) {}
