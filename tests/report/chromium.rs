//! Headless Chromium under the DevTools protocol, over two pipes: no driver, no socket.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};

/// What a test says when its browser is not there any more.
const ENDED: &str = "the browser ended";

/// The file of its error output.
const COMPLAINTS: &str = "complaints";

/// Runs `body` with a browser, if there is one; `folder` holds its profile. One that ends by itself is
/// started again, three times at most: a page that ends its browser does so each time.
pub(crate) fn in_a_browser(folder: &Path, body: impl Fn(&mut Browser)) {
    for tried in 1.. {
        let result = catch_unwind(AssertUnwindSafe(|| {
            if let Some(mut browser) = Browser::start(&folder.join(format!("browser-{tried}"))) {
                body(&mut browser);
            }
        }));
        match result {
            Ok(()) => return,
            Err(why) if tried < 3 && why.downcast_ref::<String>().is_some_and(|why| why.contains(ENDED)) => {
                println!("note: tried again, since {ENDED}");
            }
            Err(why) => resume_unwind(why),
        }
    }
}

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    folder: PathBuf,
    session: Value,
    last_id: u64,
    /// Everything that the page said unasked.
    pub(crate) events: Vec<Value>,
}

/// The program named by `CHROMIUM`, else one of the usual names on PATH.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"];
    let path = std::env::var_os("PATH")?;
    named
        .or_else(|| std::env::split_paths(&path).flat_map(|at| names.map(|name| at.join(name))).find(|at| at.is_file()))
}

impl Browser {
    fn start(folder: &Path) -> Option<Self> {
        let Some(program) = program() else {
            println!(
                "skipped: no Chromium found; install one (Debian: apt-get install chromium) or name it in CHROMIUM"
            );
            return None;
        };
        std::fs::create_dir_all(folder).unwrap();
        let (into, out) = (folder.join("to-browser"), folder.join("from-browser"));
        assert!(Command::new("mkfifo").args([&into, &out]).status().unwrap().success());
        // Chromium reads file 3 and writes file 4. The limit ends a browser that hangs.
        let script = "exec timeout 600 \"$0\" --headless --no-sandbox --disable-gpu --hide-scrollbars \
                      --user-data-dir=\"$3\" --remote-debugging-pipe 3<\"$1\" 4>\"$2\"";
        let child = Command::new("sh")
            .args(["-c", script])
            .args([&program, &into, &out, &folder.join("profile")])
            .stderr(File::create(folder.join(COMPLAINTS)).unwrap())
            .spawn()
            .unwrap();
        let to = OpenOptions::new().write(true).open(&into).unwrap();
        let from = BufReader::new(File::open(&out).unwrap());
        let folder = folder.to_path_buf();
        let mut browser = Self { child, to, from, folder, session: Value::Null, last_id: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap_or_else(|why| self.ended(&why.to_string()));
        loop {
            let answer = self.read();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).unwrap();
        if message.pop() != Some(0) {
            self.ended("no answer");
        }
        serde_json::from_slice(&message).unwrap()
    }

    fn ended(&self, why: &str) -> ! {
        let said = std::fs::read_to_string(self.folder.join(COMPLAINTS)).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        panic!("{ENDED} ({why}): {last:#?}");
    }

    /// Opens a file in a window of that size, under that wish for light or dark.
    pub(crate) fn open(&mut self, page: &Path, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", page.display()) }));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.read();
            self.events.push(event);
        }
        self.settle();
    }

    /// Lets observers and frames run.
    pub(crate) fn settle(&mut self) {
        self.eval("new Promise((done) => setTimeout(() => requestAnimationFrame(() => done(1)), 150))");
    }

    /// The value of an expression, awaited if it is a promise.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub(crate) fn mouse(&mut self, kind: &str, x: f64, y: f64, more: Value) {
        let mut event = json!({ "type": kind, "x": x, "y": y });
        for (key, value) in more.as_object().unwrap() {
            event[key] = value.clone();
        }
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Errors, warnings and refused loads since the page was opened.
    pub(crate) fn complaints(&self) -> Vec<&Value> {
        let spoken = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        self.events.iter().filter(|event| spoken.iter().any(|method| event["method"] == *method)).collect()
    }

    /// The whole page as a PNG.
    pub(crate) fn screenshot(&mut self, file: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        std::fs::write(file, base64(shot["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.child.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|c| *c != b'=').collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0, |bits, c| bits << 6 | value(*c)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    letters.chunks(4).flat_map(group).collect()
}
