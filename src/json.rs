//! Writes JSON, as much of it as plans and traces need: objects, arrays, strings, numbers.
//!
//! No reader, no values in memory. Commas are placed by the writer; the caller balances `begin_…`
//! and `end_…`. Numbers that JSON has not (NaN, infinities) become `null`. Keys keep their order,
//! so that the same data gives the same text. Tests: `tests/plan_dump.rs` reads it with a parser.

use std::fmt::Write;

/// JSON text in the making.
#[derive(Debug, Default)]
pub struct Writer {
    text: String,
    needs_comma: bool,
}

impl Writer {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    /// `{`
    pub fn begin_object(&mut self) -> &mut Self {
        self.open('{')
    }

    /// `}`
    pub fn end_object(&mut self) -> &mut Self {
        self.close('}')
    }

    /// `[`
    pub fn begin_array(&mut self) -> &mut Self {
        self.open('[')
    }

    /// `]`
    pub fn end_array(&mut self) -> &mut Self {
        self.close(']')
    }

    /// The key of the next value.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.string(key);
        self.text.push(':');
        self.needs_comma = false;
        self
    }

    /// A string, escaped.
    pub fn string(&mut self, value: &str) -> &mut Self {
        self.comma();
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                c if (c as u32) < 0x20 => self.raw(format_args!("\\u{:04x}", c as u32)),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        self
    }

    /// A whole number.
    pub fn integer(&mut self, value: impl Into<i128>) -> &mut Self {
        self.comma();
        self.raw(format_args!("{}", value.into()));
        self
    }

    /// A number, in the shortest form that reads back the same.
    pub fn number(&mut self, value: f64) -> &mut Self {
        self.comma();
        if value.is_finite() {
            self.raw(format_args!("{value}"))
        } else {
            self.text.push_str("null")
        }
        self
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.comma();
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    /// An array of strings.
    pub fn strings<S: AsRef<str>>(&mut self, values: impl IntoIterator<Item = S>) -> &mut Self {
        self.begin_array();
        for value in values {
            self.string(value.as_ref());
        }
        self.end_array()
    }

    /// An array of whole numbers.
    pub fn integers<I: Into<i128>>(&mut self, values: impl IntoIterator<Item = I>) -> &mut Self {
        self.begin_array();
        for value in values {
            self.integer(value);
        }
        self.end_array()
    }

    /// Starts a new line where the text would go on; readers ignore it.
    pub fn newline(&mut self) -> &mut Self {
        self.comma();
        self.needs_comma = false;
        self.text.push('\n');
        self
    }

    fn open(&mut self, bracket: char) -> &mut Self {
        self.comma();
        self.needs_comma = false;
        self.text.push(bracket);
        self
    }

    fn close(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket);
        self.needs_comma = true;
        self
    }

    /// A comma, if a value stands before, and the promise of one behind the next.
    fn comma(&mut self) {
        if std::mem::replace(&mut self.needs_comma, true) {
            self.text.push(',');
        }
    }

    fn raw(&mut self, text: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(text);
    }
}
