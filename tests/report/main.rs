//! `seqpar report`: what the page, the SVG and the trace hold, and what is refused. The page in a
//! browser is in `browser.rs`.

mod browser;
mod chromium;
mod files;
mod records;
