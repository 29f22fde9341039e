//! The page in a browser.

use std::time::Instant;

use serde_json::{Value, json};

use crate::browser::{Browser, keep};
use crate::node::{Files, service, with_firewall};
use crate::page::Page;

/// A cluster with 10,000 more Services, one of them without endpoints.
fn large() -> Vec<Value> {
    let mut objects = observed::objects_json();
    for at in 0..10_000 {
        objects.extend(service(
            &format!("svc-{at:05}"),
            at,
            usize::from(at != 7_777),
        ));
    }
    objects
}

#[test]
fn service_is_found_among_ten_thousand_and_explained() {
    let files = Files::new(&large());
    let facts = files.node("node1", "nftables", &files.rules("nftables"));
    let page = Page::start(&files, &[&facts]);
    let mut browser = Browser::start(1280, 800);
    browser.open(&page.url);
    browser.wait("document.getElementById('count').textContent.includes('Services')");
    let count = browser.text("#count");
    assert!(
        count.split(' ').nth(2).unwrap().parse::<u32>().unwrap() > 10_000,
        "{count}"
    );
    // Only some rows are elements.
    let rows = browser.eval("document.querySelectorAll('#services [role=option]').length");
    assert!((5..60).contains(&rows.as_u64().unwrap()), "{rows}");
    // The time is not asserted; it is printed for a person.
    let before = Instant::now();
    browser.enter("#search", "svc-07777");
    browser.wait("document.getElementById('count').textContent.startsWith('1 of')");
    println!("search among 10,000 Services: {:?}", before.elapsed());
    browser.press("Enter");
    browser.wait("document.querySelector('h2')?.textContent.includes('load/svc-07777')");
    browser.settled();
    let found = browser.text(".findings");
    assert!(found.contains("no-ready-endpoint"), "{found}");
    assert!(found.contains("fix: "), "{found}");
    assert!(browser.text("h2").contains("no ready endpoint"));
    // With the keyboard: to the end of the whole list.
    browser.enter("#search", "svc-");
    browser.press("ArrowDown");
    browser.press("End");
    browser.press("Enter");
    browser.wait("document.querySelector('h2')?.textContent.includes('load/svc-09999')");
    browser.settled();
    let rows = browser.eval("document.querySelectorAll('#services [role=option]').length");
    assert!((5..60).contains(&rows.as_u64().unwrap()), "{rows}");
    browser.assert_clean(&page.url);
}

/// Trace a packet on the page, from the navigation on.
fn trace(browser: &mut Browser, src: &str, dst: &str, dport: &str) {
    browser.click("nav a[data-view=trace]");
    browser.wait("document.querySelector('form input[name=src]')");
    for (name, text) in [("src", src), ("dst", dst), ("dport", dport)] {
        browser.enter(&format!("form input[name={name}]"), text);
    }
    browser.press("Enter");
    browser.wait("document.querySelector('svg.picture .box')");
    browser.settled();
}

#[test]
fn packet_is_traced_rules_open_traces_are_compared_and_the_export_needs_no_server() {
    let files = Files::observed();
    let nftables = files.node("node1", "nftables", &files.rules("nftables"));
    let iptables = files.node("node1", "iptables", &files.rules("iptables"));
    let page = Page::start(&files, &[&iptables, &nftables]);
    let mut browser = Browser::start(1280, 900);
    browser.open(&page.url);
    trace(&mut browser, "10.244.1.50", "10.96.10.1", "80");
    let ends = browser.text(".ends");
    assert!(
        ends.contains("accept 100% to 10.244.1.11:8080, 10.244.2.11:8080"),
        "{ends}"
    );
    // A rule opens with a mouse or the keyboard.
    browser.click("g.box[data-title='prerouting: ip nat KUBE-SERVICES']");
    browser.wait("document.querySelector('.steps')");
    let steps = browser.text(".steps");
    for part in [
        "-d 10.96.10.1/32",
        "destination 10.96.10.1:80",
        "effect: jump KUBE-SVC-",
    ] {
        assert!(steps.contains(part), "{part}: {steps}");
    }
    browser.eval("document.querySelector(\"g.box[data-title*='KUBE-SEP-']\").focus()");
    browser.press("Enter");
    browser
        .wait("document.querySelector('.steps').innerText.includes('destination becomes 10.244.')");
    keep("trace.png", &browser.screenshot());
    // The same packet on the node in nftables mode.
    browser.click("main > p button");
    browser.wait("document.querySelectorAll('.pane').length === 2");
    browser.settled();
    browser.eval("document.querySelectorAll('form select[name=node]')[1].value = 'node1 (node1-nftables.json)'");
    browser.click(".pane:nth-child(2) button[type=submit]");
    browser.wait(
        "document.querySelectorAll('.pane')[1]?.innerText.includes('node1 (node1-nftables.json) (nftables)') \
                  && document.querySelectorAll('.box.differs').length > 4",
    );
    browser.settled();
    let panes = browser.eval("[...document.querySelectorAll('.pane')].map((p) => [...p.querySelectorAll('.box')].map((b) => b.dataset.title).join('\\n'))");
    assert!(panes[0].as_str().unwrap().contains("KUBE-SVC-"), "{panes}");
    assert!(
        panes[1].as_str().unwrap().contains("ip kube-proxy"),
        "{panes}"
    );
    keep("compare.png", &browser.screenshot());
    // One Service, so that the export contains it.
    browser.enter("#search", "demo/web");
    browser.press("Enter");
    browser.wait("document.querySelector('h2')?.textContent.startsWith('demo/web')");
    browser.wait("document.querySelector('svg.picture .box')");
    browser.settled();
    let compared = browser.eval(
        "(history.go(-1), new Promise((done) => setTimeout(() => done(location.hash), 300)))",
    );
    browser.settled();
    browser.click("#export");
    let exported = browser
        .folder
        .path()
        .join("sluice-node1 (node1-iptables.json).html");
    crate::support::eventually("the download", || exported.exists());
    browser.assert_clean(&page.url);
    drop(page);
    // Without the server, in another browser.
    let mut offline = Browser::start(1280, 900);
    let url = format!(
        "file://{}",
        exported.display().to_string().replace(' ', "%20")
    );
    offline.open(&format!("{url}{}", compared.as_str().unwrap()));
    offline.wait("document.querySelectorAll('.pane svg.picture').length >= 2");
    assert!(offline.text(".ends").contains("10.244.2.11:8080"));
    offline.enter("#search", "demo/web");
    offline.press("Enter");
    offline.wait("document.querySelector('h2')?.textContent.startsWith('demo/web')");
    offline.settled();
    assert!(offline.text("main").contains("No problems found on node1"));
    // The export contains only answers that were opened.
    offline.enter("#search", "demo/nodeport");
    offline.press("Enter");
    offline.wait("document.querySelector('main .warning')?.innerText.includes('does not contain the answer')");
    offline.assert_clean("file:");
}

#[test]
fn exported_file_of_the_command_shows_services_and_problems() {
    let files = Files::observed();
    let facts = files.node(
        "node1",
        "iptables",
        &with_firewall(&files.rules("iptables")),
    );
    let file = files.path("ticket.html");
    let output = std::process::Command::new(crate::support::SLUICE)
        .args(["ui", "--service=demo/web"])
        .arg("--export")
        .arg(&file)
        .args(files.words())
        .arg("--facts")
        .arg(&facts)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        crate::support::text(&output.stderr)
    );
    let mut browser = Browser::start(1280, 900);
    browser.open(&format!("file://{}#problems", file.display()));
    browser.wait("document.querySelector('h2')?.textContent.includes('Problems')");
    assert!(browser.text("main").contains("foreign-drop"));
    browser.enter("#search", "demo/web");
    browser.press("Enter");
    browser.wait("document.querySelector('svg.picture .box')");
    browser.settled();
    let main = browser.text("main");
    assert!(main.contains("-d 10.244.2.0/24 -j DROP"), "{main}");
    // Another connection of the Service.
    browser.eval("(() => { const s = document.getElementById('connection'); s.value = s.options.length - 1; s.dispatchEvent(new Event('change')); })()");
    browser.settled();
    assert_eq!(
        browser.eval("document.querySelectorAll('main .warning').length"),
        json!(0)
    );
    let pdf = browser.print();
    assert!(pdf.starts_with(b"%PDF"));
    browser.assert_clean("file:");
}
