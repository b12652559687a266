//! The page in headless Chromium: nothing on the console, hover, zoom and drag, no overflow at
//! 360 px and 1920 px, light and dark. Where no Chromium is found the tests say that they
//! skipped. Screenshots stay in `target/tmp/report-browser`.

use std::path::Path;

use serde_json::{Value, json};

use crate::chromium::{Browser, in_a_browser};
use crate::records::{folder, kernel_row, large, record, report, row, seqpar, write};

fn rows() -> Vec<Value> {
    let sweep = ["fastseq", "ulysses", "ring"].into_iter().enumerate().flat_map(|(i, strategy)| {
        [256, 512, 1024].map(|tokens| row(strategy, tokens, (tokens * (i as u64 + 2)) as f64))
    });
    sweep.chain([kernel_row("gemm_f32", 1e9, 2e4), kernel_row("gemm_bf16", 1e7, 2e3)]).collect()
}

#[test]
fn the_page_works_narrow_and_wide_light_and_dark() {
    let folder = folder("browser");
    let reports = vec![
        report("fastseq, 2 ranks", "measured", "project chunk 0", 10),
        report("fastseq, 2 ranks", "simulated", "project chunk 0", 9),
    ];
    write(&folder, "a.json", &record(rows(), reports));
    assert!(seqpar(&["report", "a.json", "-o", "a.html", "--title", "A page"], &folder).status.success());
    in_a_browser(&folder, |browser| looks_right_at_every_width(browser, &folder));
}

fn looks_right_at_every_width(browser: &mut Browser, folder: &Path) {
    for (width, scheme) in [(360, "light"), (360, "dark"), (1920, "light"), (1920, "dark")] {
        browser.open(&folder.join("a.html"), width, scheme);
        browser.screenshot(&folder.join(format!("{width}-{scheme}.png")));
        let what = format!("{width} px, {scheme}");
        assert_eq!(browser.eval("innerWidth"), width, "{what}");
        let wider = browser.eval("document.documentElement.scrollWidth - innerWidth");
        assert!(wider.as_i64().unwrap() <= 0, "{wider} px wider than its window: {what}");
        let sections = browser.eval("[...document.querySelectorAll('h2')].map((h) => h.textContent)");
        let expected =
            ["Runs", "Timeline", "Overlap by rank", "Strategies", "Prediction beside measurement", "Roofline", "Rows"];
        assert_eq!(sections, json!(expected), "{what}");
        // A sweep, its last size, the prediction and the roofline.
        assert_eq!(browser.eval("document.querySelectorAll('.panel svg').length"), 4, "{what}");
        looks_and_switches(browser, scheme);
        hover(browser, &what);
        zoom(browser, &what);
        assert_eq!(browser.complaints(), Vec::<&Value>::new(), "{what}");
    }
}

/// The system's wish counts, until the button is pressed.
fn looks_and_switches(browser: &mut Browser, scheme: &str) {
    let theme = "document.documentElement.dataset.theme";
    let bright = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part > 128)";
    for expected in [scheme, if scheme == "dark" { "light" } else { "dark" }, scheme] {
        assert_eq!(browser.eval(theme), expected);
        assert_eq!(browser.eval(bright), expected == "light");
        browser.eval("document.getElementById('theme').click()");
    }
    browser.eval("document.getElementById('theme').click()");
}

/// Left, top, width and height of the timeline in the window.
fn canvas(browser: &mut Browser) -> [f64; 4] {
    browser.eval("document.querySelector('canvas').scrollIntoView({ block: 'center' })");
    browser.settle();
    let b = browser.eval(
        "(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()",
    );
    std::array::from_fn(|i| b[i].as_f64().unwrap())
}

/// Every kind of thing under the mouse says what it is.
fn hover(browser: &mut Browser, what: &str) {
    let [left, top, width, height] = canvas(browser);
    let mut tips: Vec<String> = Vec::new();
    for step in 0..(height / 16.0) as usize {
        for column in 0..8 {
            let (x, y) = (left + width * (0.3 + 0.085 * column as f64), top + 16.0 * step as f64);
            browser.mouse("mouseMoved", x, y, json!({}));
            let shown = browser.eval(
                "(() => { const tip = document.getElementById('tip'), b = tip.getBoundingClientRect(); \
                 return tip.hidden ? null : [tip.textContent, b.left >= 0 && b.right <= innerWidth]; })()",
            );
            if !shown.is_null() {
                assert_eq!(shown[1], true, "a tip leaves the window: {shown}, {what}");
                tips.push(shown[0].as_str().unwrap().into());
            }
        }
    }
    for expected in
        ["project chunk 0", "attention[1]", "chunk 1 arrives", "64 KiB sent", "GFLOP/s", "exposed communication"]
    {
        assert!(tips.iter().any(|tip| tip.contains(expected)), "no tip with {expected}: {what}, {tips:?}");
    }
    browser.mouse("mouseMoved", left, top - 30.0, json!({}));
    assert_eq!(browser.eval("document.getElementById('tip').hidden"), true, "{what}");
}

fn zoom(browser: &mut Browser, what: &str) {
    let [left, top, width, _] = canvas(browser);
    let (x, y) = (left + width * 0.6, top + 60.0);
    let window = |browser: &mut Browser| {
        let window = browser.eval("window.seqparTimeline.window()");
        (window[0].as_f64().unwrap(), window[1].as_f64().unwrap())
    };
    let whole = window(browser);
    assert_eq!(whole, (0.0, 3_000_000.0), "{what}");
    // A plain wheel scrolls the page; with Ctrl it zooms where the mouse is.
    browser.mouse("mouseWheel", x, y, json!({ "deltaX": 0, "deltaY": -300, "modifiers": 2 }));
    browser.settle();
    let near = window(browser);
    assert!(near.1 - near.0 < 0.5 * whole.1 && near.0 > 0.0, "{near:?}, {what}");
    browser.mouse("mousePressed", x, y, json!({ "button": "left", "buttons": 1, "clickCount": 1 }));
    browser.mouse("mouseMoved", x + 40.0, y, json!({ "button": "left", "buttons": 1 }));
    browser.mouse("mouseReleased", x + 40.0, y, json!({ "button": "left", "clickCount": 1 }));
    let dragged = window(browser);
    assert!(dragged.0 < near.0 && (dragged.1 - dragged.0 - (near.1 - near.0)).abs() < 1.0, "{dragged:?}, {what}");
    browser.eval("[...document.querySelectorAll('.tools button')].find((b) => b.textContent === 'Fit').click()");
    assert_eq!(window(browser), whole, "{what}");
}

/// 64 ranks with 2,000 spans each.
#[test]
fn many_spans_stay_fluid() {
    let folder = folder("browser-many");
    write(&folder, "many.json", &record(vec![], vec![large(64, 2000)]));
    assert!(seqpar(&["report", "many.json", "-o", "many.html"], &folder).status.success());
    in_a_browser(&folder, |browser| zooms_fluidly(browser, &folder.join("many.html")));
}

fn zooms_fluidly(browser: &mut Browser, page: &Path) {
    browser.open(page, 1400, "light");
    // Zooms that are drawn at once instead of with the next frame; the fastest, out and in again, since
    // other work on the machine can only add time.
    let ms = browser.eval(
        "(() => { const frame = window.requestAnimationFrame; window.requestAnimationFrame = (draw) => { draw(); return 0; }; \
         const pair = () => { const begin = performance.now(); \
         window.seqparTimeline.zoom(0.8); window.seqparTimeline.zoom(1.25); return (performance.now() - begin) / 2; }; \
         const fastest = Math.min(...Array.from({ length: 25 }, pair)); \
         window.requestAnimationFrame = frame; return fastest; })()",
    );
    println!("128,000 spans: {ms} ms a frame");
    assert!(ms.as_f64().unwrap() < 100.0, "{ms} ms a frame");
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
}
