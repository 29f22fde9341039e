//! The look of the page, as in the README. `make pictures` renders the references again; a person looks at them.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde_json::json;

use crate::browser::{Browser, keep};
use crate::node::{Files, with_firewall};
use crate::page::Page;
use crate::support::{SLUICE, text};

/// Share of pixels that may differ visibly: other versions of browser and fonts smooth edges differently.
const TOLERANCE: f64 = 0.03;

fn reference(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pictures");
    folder.join(format!("{name}.png"))
}

/// Return the share of pixels that differ by more than an eighth of the range in a colour; 1 if the sizes
/// differ.
fn difference(browser: &mut Browser, pictures: [&[u8]; 2]) -> f64 {
    let urls = pictures.map(|png| format!("data:image/png;base64,{}", BASE64.encode(png)));
    browser.call("Page.navigate", &json!({"url": "about:blank"}));
    let share = browser.eval(&format!(
        "Promise.all({}.map(async (url) => {{ \
           const image = new Image(); image.src = url; await image.decode(); \
           const canvas = new OffscreenCanvas(image.width, image.height); \
           const context = canvas.getContext('2d'); context.drawImage(image, 0, 0); \
           return context.getImageData(0, 0, image.width, image.height); \
         }})).then(([a, b]) => {{ \
           if (a.width !== b.width || a.height !== b.height) return 1; \
           let count = 0; \
           for (let at = 0; at < a.data.length; at += 4) \
             if ([0, 1, 2].some((c) => Math.abs(a.data[at + c] - b.data[at + c]) > 32)) count += 1; \
           return count / (a.width * a.height); \
         }})",
        json!(urls)
    ));
    share.as_f64().unwrap()
}

/// Compare what the browser shows with the reference of a name; `UPDATE=1` writes the reference.
fn compare(browser: &mut Browser, name: &str) {
    let png = browser.screenshot();
    keep(&format!("{name}.png"), &png);
    let path = reference(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &png).unwrap();
        // As below: the next page starts without the state of this one.
        browser.call("Page.navigate", &json!({"url": "about:blank"}));
        return;
    }
    let wanted = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(wanted.len() < 300_000, "{name} is too large");
    // An empty page differs more than the tolerance.
    let share = difference(browser, [&wanted, &png]);
    assert!(
        share < TOLERANCE,
        "{:.2} % of {name} differ; compare target/tmp/ui/{name}.png with docs/pictures/{name}.png, and run \
         `make pictures` if the page has changed",
        share * 100.0
    );
}

/// Show the text of a terminal in the browser.
fn terminal(browser: &mut Browser, width: u32, text: &str) {
    let lines = u32::try_from(text.lines().count()).unwrap();
    browser.resize(width, lines * 18 + 32);
    browser.call("Page.navigate", &json!({"url": "about:blank"}));
    browser.wait("document.readyState === 'complete'");
    browser.eval(&format!(
        "(() => {{ const pre = document.createElement('pre'); pre.textContent = {}; document.body.replaceChildren(pre); \
         document.body.style.cssText = 'margin:0;background:#10161d;color:#e4ebf2'; \
         pre.style.cssText = 'margin:0;padding:16px;font:13px/18px \"DejaVu Sans Mono\", monospace;white-space:pre'; }})()",
        json!(text)
    ));
}

/// Return the facts of a node on which a firewall drops the traffic to another node's pods.
fn behind_a_firewall(files: &Files) -> PathBuf {
    files.node(
        "node1",
        "iptables",
        &with_firewall(&files.rules("iptables")),
    )
}

#[test]
fn explanation_looks_like_its_reference() {
    let files = Files::observed();
    let output = std::process::Command::new(SLUICE)
        .args(["explain", "demo/web"])
        .args(files.words())
        .arg("--facts")
        .arg(behind_a_firewall(&files))
        .output()
        .unwrap();
    let explanation = text(&output.stdout);
    assert!(explanation.contains("foreign-drop"), "{explanation}");
    let mut browser = Browser::start(1000, 600);
    let shown: Vec<String> = explanation
        .lines()
        .take_while(|line| !line.starts_with("where connections go"))
        .map(|line| line.chars().take(175).collect())
        .collect();
    let shown = format!("$ sluice explain demo/web\n{}", shown.join("\n"));
    terminal(&mut browser, 1410, shown.trim_end());
    compare(&mut browser, "explain");
}

#[test]
fn page_looks_like_its_references() {
    let files = Files::observed();
    let damaged = behind_a_firewall(&files);
    let nftables = files.node("node1", "nftables", &files.rules("nftables"));
    let page = Page::start(&files, &[&damaged, &nftables]);
    // The origin of the data contains the folder's name.
    let anonymous = "document.getElementById('about').textContent = 'iptables mode · Linux 6.12 · rules checked'";
    let mut browser = Browser::start(1280, 860);
    browser.scheme("light");
    browser.open(&page.url);
    browser.wait("document.getElementById('about').textContent.includes('rules checked')");
    browser.open(&format!("{}#service?name=demo%2Fweb", page.url));
    browser.wait("document.querySelector('h2')?.textContent.startsWith('demo/web')");
    browser.settled();
    browser.wait("document.querySelector('svg.picture .box')");
    browser.eval(anonymous);
    compare(&mut browser, "service");
    let trace = "0.src=10.244.1.50&0.dst=10.96.10.1&0.dport=80&0.proto=tcp";
    browser.scheme("dark");
    browser.open(&format!("{}#trace?{trace}", page.url));
    browser.wait("document.querySelector('svg.picture .box')");
    browser.click("g.box[data-title='prerouting: ip nat KUBE-SERVICES']");
    browser.eval("document.querySelector('.opened').scrollIntoView({block: 'end'})");
    browser.eval(anonymous);
    compare(&mut browser, "trace");
    browser.scheme("light");
    browser.resize(2560, 900);
    let outside = "1.src=198.51.100.9&1.dst=10.200.1.2&1.dport=30008&1.proto=tcp";
    browser.open(&format!("{}#trace?{trace}&{outside}", page.url));
    browser.wait("document.querySelectorAll('.pane svg.picture').length >= 2");
    browser.eval(anonymous);
    compare(&mut browser, "compare");
    // The comparison notices another page.
    let other = browser.screenshot();
    let reference = std::fs::read(reference("compare")).unwrap();
    browser.open(&format!("{}#problems", page.url));
    let problems = browser.screenshot();
    assert!(difference(&mut browser, [&reference, &problems]) > TOLERANCE);
    assert!(difference(&mut browser, [&other, &problems]) > TOLERANCE);
    browser.assert_clean(&page.url);
}
