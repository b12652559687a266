//! Reads the header of a safetensors file before the parser does.
//!
//! The parser's messages name neither file nor tensor, it keeps the last of two tensors of one
//! name, and it adds up offsets without a check. So what a hostile header can say is looked at
//! here first, in the order in which a person would want to hear of it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Bytes of the length field in front of the header.
const PREFIX: usize = 8;

/// Says what is wrong with `file`, or returns its metadata.
pub(crate) fn header(file: &[u8]) -> Result<BTreeMap<String, String>, String> {
    if file.is_empty() {
        return Err("the file is empty; a safetensors file is needed".into());
    }
    let prefix: [u8; PREFIX] = file
        .get(..PREFIX)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("only {} bytes: not a safetensors file, or cut short", file.len()))?;
    let announced = u64::from_le_bytes(prefix);
    let rest = &file[PREFIX..];
    let text = usize::try_from(announced).ok().and_then(|len| rest.get(..len)).ok_or_else(|| {
        format!(
            "the header should have {announced} bytes, but only {} follow: not a safetensors file, or cut short",
            rest.len()
        )
    })?;
    let data_bytes = rest.len() - text.len();
    let text = std::str::from_utf8(text).map_err(|_| "the header is not UTF-8: not a safetensors file".to_string())?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("the header is not JSON ({error}): not a safetensors file"))?;
    let Value::Object(entries) = value else {
        return Err("the header is not a JSON object: not a safetensors file".into());
    };
    if let Some(name) = first_repeated_key(text) {
        return Err(format!("tensor \"{name}\" is there twice: keep one of them"));
    }
    let mut extents = Vec::new();
    let mut metadata = BTreeMap::new();
    for (name, entry) in &entries {
        if name == "__metadata__" {
            metadata = texts(entry)?;
        } else {
            let (begin, end) = tensor(entry, data_bytes).map_err(|why| format!("tensor \"{name}\": {why}"))?;
            extents.push((begin, end, name));
        }
    }
    extents.sort();
    let mut next = 0;
    for (begin, end, name) in extents {
        if begin != next {
            let what = if begin < next { "overlaps the one before it" } else { "leaves a gap in front of it" };
            return Err(format!("tensor \"{name}\" begins at byte {begin} and {what}, which ends at {next}"));
        }
        next = end;
    }
    if next != data_bytes {
        return Err(format!("the tensors end at byte {next}, but the file has {data_bytes} bytes of data"));
    }
    Ok(metadata)
}

/// First and last byte of a tensor; whether it has a known dtype is for its reader to say.
fn tensor(entry: &Value, data_bytes: usize) -> Result<(usize, usize), String> {
    let offsets = entry.get("data_offsets").and_then(numbers).filter(|offsets| offsets.len() == 2);
    let [begin, end] = offsets.as_deref().unwrap_or_default() else {
        return Err("its data_offsets are not two whole numbers".into());
    };
    if begin > end || *end > data_bytes {
        return Err(format!(
            "its data_offsets [{begin}, {end}] lie outside the {data_bytes} bytes of data: cut short, or a bad header"
        ));
    }
    let shape = entry.get("shape").and_then(numbers).ok_or("its shape is not a list of whole numbers")?;
    let dtype = entry.get("dtype").and_then(Value::as_str).ok_or("it has no dtype")?;
    let bits = bits(dtype).ok_or_else(|| format!("unknown dtype {dtype}; known: F32, F16, BF16, U8, I64, …"))?;
    let asked = shape.iter().try_fold(bits, |n, &dim| n.checked_mul(dim)).filter(|bits| bits % 8 == 0);
    match asked {
        Some(bits) if bits / 8 == end - begin => Ok((*begin, *end)),
        Some(bits) => Err(format!("shape {shape:?} of {dtype} takes {} bytes, but it has {}", bits / 8, end - begin)),
        None => Err(format!("shape {shape:?} of {dtype} is beyond any file")),
    }
}

fn numbers(value: &Value) -> Option<Vec<usize>> {
    value.as_array()?.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
}

fn texts(entry: &Value) -> Result<BTreeMap<String, String>, String> {
    let pairs = entry.as_object().ok_or("its __metadata__ is not a JSON object of strings")?;
    pairs
        .iter()
        .map(|(key, value)| match value.as_str() {
            Some(text) => Ok((key.clone(), text.to_string())),
            None => Err(format!("its metadata \"{key}\" is not a string")),
        })
        .collect()
}

fn bits(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "C64" | "F64" | "I64" | "U64" => 64,
        _ => return None,
    })
}

/// The first key of a JSON object that stands in it twice. `text` is valid JSON.
fn first_repeated_key(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut seen = std::collections::BTreeSet::new();
    let (mut depth, mut at) = (0usize, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let begin = at;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let is_key = depth == 1 && text[at + 1..].trim_start().starts_with(':');
                if is_key {
                    let key: String = serde_json::from_str(&text[begin..=at]).ok()?;
                    if !seen.insert(key.clone()) {
                        return Some(key);
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn entry(shape: &str, begin: u64, end: u64) -> String {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    #[test]
    fn a_good_header_gives_its_metadata() {
        let header_text = format!(r#"{{"__metadata__":{{"a":"b"}},"x":{}}}"#, entry("[2]", 0, 8));
        assert_eq!(header(&file(&header_text, 8)).unwrap()["a"], "b");
    }

    #[test]
    fn hostile_headers_are_refused_by_what_is_wrong() {
        let two = |a: String, b: String| format!(r#"{{"x":{a},"y":{b}}}"#);
        let cases = [
            (Vec::new(), "empty"),
            (vec![1, 2, 3], "3 bytes"),
            (u64::MAX.to_le_bytes().to_vec(), "18446744073709551615"),
            (file("[]", 0), "not a JSON object"),
            (file("{", 0), "not JSON"),
            (file(&two(entry("[2]", 0, 8), entry("[2]", 4, 12)), 12), "overlaps"),
            (file(&two(entry("[2]", 0, 8), entry("[2]", 12, 20)), 20), "gap"),
            (file(&two(entry("[2]", 0, 8), entry("[2]", 8, 16)), 12), "outside"),
            (file(&two(entry("[2]", 0, 8), entry("[3]", 8, 16)), 16), "takes 12 bytes"),
            (file(&two(entry("[2]", 0, 8), entry("[9223372036854775807, 4]", 8, 16)), 16), "beyond any file"),
            (file(&two(entry("[2]", 0, 8), entry("[-2]", 8, 16)), 16), "not a list of whole numbers"),
            (file(&two(entry("[2]", 0, 8), entry("[2]", 8, 16)), 20), "20 bytes of data"),
            (file(&format!(r#"{{"x":{0},"\u0078":{0}}}"#, entry("[2]", 0, 8)), 8), "twice"),
        ];
        for (bytes, needle) in cases {
            let why = header(&bytes).unwrap_err();
            assert!(why.contains(needle), "{needle:?} is not in {why:?}");
        }
    }
}
