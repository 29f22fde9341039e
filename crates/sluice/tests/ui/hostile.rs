//! Files that another person made: markup in every text, cycles, and a million rules.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::node::{Files, service};
use crate::page::Page;

const MARKUP: &str = "<img src=x onerror=alert(1)><script>window.ran=1</script>\"'&";

/// Rules whose chains and comments contain markup, with a cycle that no packet enters.
fn rules() -> String {
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:<b>bold</b> - [0:0]\n:LOOP-A - [0:0]\n:LOOP-B - [0:0]\n\
         -A PREROUTING -m comment --comment \"{}\" -j <b>bold</b>\n\
         -A PREROUTING -d 192.0.2.66/32 -j LOOP-A\n-A LOOP-A -j LOOP-B\n-A LOOP-B -j LOOP-A\n\
         -A LOOP-B -j LOOP-B\n-A <b>bold</b> -p tcp -j DNAT --to-destination 10.244.1.11:8080\nCOMMIT\n",
        MARKUP.replace('"', "\\\"")
    )
}

fn hostile() -> Files {
    let mut objects = service("victim", 1, 2);
    objects[1]["endpoints"][0]["zone"] = MARKUP.into();
    objects[1]["endpoints"][0]["nodeName"] = MARKUP.into();
    Files::new(&objects)
}

#[test]
fn markup_in_facts_and_objects_is_shown_as_text() {
    let files = hostile();
    let facts = files.node(MARKUP_FILE, "iptables", &rules());
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&facts).unwrap()).unwrap();
    value["hostname"] = MARKUP.into();
    value["kernel"] = MARKUP.into();
    value["notes"] = json!([MARKUP]);
    std::fs::write(&facts, value.to_string()).unwrap();
    let page = Page::start(&files, &[&facts]);
    let mut browser = Browser::start(1280, 800);
    browser.open(&page.url);
    assert!(
        browser.text("#about").contains(MARKUP),
        "{}",
        browser.text("#about")
    );
    browser.open(&format!("{}#service?name=load%2Fvictim", page.url));
    browser.wait("document.querySelector('h2')?.textContent.includes('load/victim')");
    browser.settled();
    assert!(browser.text("main").contains(MARKUP));
    browser.open(&format!(
        "{}#trace?0.src=10.244.1.50&0.dst=10.100.0.2&0.dport=80",
        page.url
    ));
    browser.wait("document.querySelector('svg.picture .box')");
    assert!(browser.text("main").contains("<b>bold</b>"));
    browser.open(&format!("{}#rules", page.url));
    browser.wait("document.querySelector('svg.picture .box')");
    assert!(browser.eval("[...document.querySelectorAll('svg.picture .box')].some((b) => b.textContent.includes('LOOP-B'))") == true);
    // A packet that enters the cycle.
    browser.open(&format!(
        "{}#trace?0.src=10.244.1.50&0.dst=192.0.2.66&0.dport=80&0.proto=udp",
        page.url
    ));
    browser.wait("document.querySelector('main .warning')");
    for view in ["", "#problems", "#rules"] {
        browser.open(&format!("{}{view}", page.url));
        assert_eq!(
            browser.eval(
                "window.ran ?? document.querySelector('main img, main b, main script, header img')"
            ),
            Value::Null
        );
    }
    // As one file, which contains all of it.
    browser.click("#export");
    let exported = browser.folder.path().to_owned();
    let html = || {
        std::fs::read_dir(&exported)
            .unwrap()
            .flatten()
            .find(|f| f.path().extension().is_some_and(|e| e == "html"))
    };
    crate::support::eventually("the download", || html().is_some());
    browser.open(&format!(
        "file://{}",
        html()
            .unwrap()
            .path()
            .display()
            .to_string()
            .replace('%', "%25")
            .replace('#', "%23")
            .replace('?', "%3F")
    ));
    assert!(browser.text("#about").contains(MARKUP));
    assert_eq!(browser.eval("window.ran"), Value::Null);
    // The refused questions are answers with status 400, which the browser reports.
    browser
        .complaints
        .retain(|text| !text.contains("status of 400"));
    assert_eq!(browser.complaints, [] as [String; 0]);
}

const MARKUP_FILE: &str = "hostile";

#[test]
fn a_million_rules_leave_the_page_responsive() {
    let files = Files::new(&service("web", 1, 2));
    let mut rules =
        String::from("*nat\n:PREROUTING ACCEPT [0:0]\n:MANY - [0:0]\n-A PREROUTING -j MANY\n");
    for number in 0..1_000_000_u32 {
        // A quarter of them change every packet and decide nothing.
        let _ = match number % 4 {
            0 => writeln!(rules, "-A MANY -j MARK --set-xmark 0x1/0x1"),
            _ => writeln!(rules, "-A MANY -s 192.0.2.1/32"),
        };
    }
    rules += "COMMIT\n";
    let facts = files.node("node1", "iptables", &rules);
    let page = Page::start(&files, &[&facts]);
    let mut browser = Browser::start(1280, 800);
    browser.open(&page.url);
    for (view, reason) in [
        (
            "trace?0.src=10.244.1.50&0.dst=10.100.0.2&0.dport=80",
            "too many for a page",
        ),
        ("rules", "too many for a picture"),
        ("service?name=load%2Fweb", "too many for a page"),
    ] {
        browser.open(&format!("{}#{view}", page.url));
        browser.wait(&format!(
            "document.getElementById('main').innerText.includes('{reason}')"
        ));
    }
    // The page itself still responds.
    browser.enter("#search", "web");
    browser.wait("document.getElementById('count').textContent.startsWith('1 of 1')");
}
