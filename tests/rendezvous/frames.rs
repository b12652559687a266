pub fn host(_: &str) {}
