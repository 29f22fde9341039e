//! Chromium without a window, driven by the Chrome DevTools Protocol over a pipe
//! (`--remote-debugging-pipe`: messages end with a zero byte).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Limit on the time for one condition.
const PATIENCE: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(50);

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: String,
    number: u64,
    /// Exceptions and violations of the Content-Security-Policy.
    pub(crate) complaints: Vec<String>,
    /// Addresses that the page requested.
    pub(crate) requests: Vec<String>,
    /// Downloads are written here.
    pub(crate) folder: TempDir,
}

impl Browser {
    /// Start a browser with a window of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The browser expects the pipes as file descriptors 3 and 4.
        let line = format!(
            "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
             --hide-scrollbars --force-device-scale-factor=1 --force-color-profile=srgb --lang=en \
             --font-render-hinting=none --disable-lcd-text \
             --user-data-dir='{}/profile' --window-size={width},{height} --remote-debugging-pipe \
             about:blank 3<&0 4>&1 >'{0}/log' 2>&1 </dev/null",
            folder.path().display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .env("HOME", folder.path())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self {
            child,
            to,
            from,
            session: String::new(),
            number: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
            folder,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let id = &target["targetId"];
        let attached = browser.call(
            "Target.attachToTarget",
            &json!({"targetId": id, "flatten": true}),
        );
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser.resize(width, height);
        browser.call(
            "Page.setDownloadBehavior",
            &json!({"behavior": "allow", "downloadPath": browser.folder.path()}),
        );
        browser
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
    }

    /// Set `prefers-color-scheme`.
    pub(crate) fn scheme(&mut self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({"features": [feature]}),
        );
    }

    /// Send a command and return its result.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({"id": number, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let mut bytes = Vec::new();
            let count = self.from.read_until(0, &mut bytes).unwrap();
            assert!(count > 0, "chromium ended: {}", self.log());
            bytes.pop();
            let message: Value = serde_json::from_slice(&bytes).unwrap();
            if message["id"] == number {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints
                    .push(parameters["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            Some("Page.javascriptDialogOpening") => {
                self.complaints.push(format!("dialog: {parameters}"));
            }
            Some("Network.requestWillBeSent") => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                self.requests.push(url.to_owned());
            }
            _ => {}
        }
    }

    /// Open a page of sluice and wait until it is complete.
    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({"url": url}));
        // If only the fragment differs, the event that shows the view follows.
        self.eval("new Promise((done) => setTimeout(done, 100))");
        self.wait("document.body && document.body.dataset.ready === 'true' && document.readyState === 'complete'");
        self.settled();
    }

    /// Evaluate an expression.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", &parameters);
        let failed = &result["exceptionDetails"];
        assert!(failed.is_null(), "{expression}: {failed}");
        result["result"]["value"].clone()
    }

    /// Wait until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.eval(&format!("Boolean({expression})")) == true {
                return;
            }
            let text = "document.body ? document.body.innerText.slice(0, 2000) : ''";
            assert!(
                Instant::now() < deadline,
                "not true: {expression}\n{}\n{:?}",
                self.eval(text),
                self.complaints
            );
            std::thread::sleep(INTERVAL);
        }
    }

    /// Wait until the view is complete.
    #[track_caller]
    pub(crate) fn settled(&mut self) {
        self.wait("document.getElementById('main').dataset.state === 'done' && !document.getElementById('main').innerText.includes('Tracing…')");
    }

    /// Click on the first element that a CSS selector matches.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        self.wait(&format!("document.querySelector({})", json!(selector)));
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center', inline: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                &json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1}),
            );
        }
    }

    /// Type a text into the focused element.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Press a key.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "ArrowDown" => 40,
            "Tab" => 9,
            "End" => 35,
            _ => 0,
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let parameters = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", &parameters);
        }
    }

    /// Replace the text of a field.
    pub(crate) fn enter(&mut self, selector: &str, text: &str) {
        self.click(selector);
        self.eval(&format!(
            "document.querySelector({}).select?.()",
            json!(selector)
        ));
        self.write(text);
    }

    /// Return the text of the page.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!(
            "document.querySelector({})?.innerText ?? ''",
            json!(selector)
        ));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Return a screenshot as PNG.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        // Fonts and the last frame.
        self.eval("document.fonts.ready.then(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))))");
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        BASE64
            .decode(shot["data"].as_str().unwrap().as_bytes())
            .unwrap()
    }

    /// Return the page as PDF.
    pub(crate) fn print(&mut self) -> Vec<u8> {
        let printed = self.call("Page.printToPDF", &json!({"printBackground": true}));
        BASE64
            .decode(printed["data"].as_str().unwrap().as_bytes())
            .unwrap()
    }

    /// Check that nothing failed, and that nothing but `origin` was asked.
    #[track_caller]
    pub(crate) fn assert_clean(&self, origin: &str) {
        assert_eq!(self.complaints, [] as [String; 0]);
        for url in &self.requests {
            let is_own = ["about:", "data:", "blob:", origin]
                .iter()
                .any(|start| url.starts_with(start));
            assert!(is_own, "{url}");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Save a screenshot in target/tmp/ui.
pub(crate) fn keep(name: &str, png: &[u8]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), png).unwrap();
}
