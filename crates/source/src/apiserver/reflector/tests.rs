//! The reflector on a virtual clock.

mod model_server;

use std::time::{Duration, Instant};

use model::object::{self, Object};
use model::{Change, Event, Interner, Kind, Subject};

use super::*;
use crate::What;
use crate::apiserver::wire::Stated;

/// A reflector with a virtual clock.
struct Rig {
    reflector: Reflector,
    interner: Interner,
    now: Instant,
}

fn cidr(name: &str, version: u64, range: &str) -> Stated {
    let metadata = object::Metadata {
        name: name.into(),
        ..object::Metadata::default()
    };
    let spec = object::ServiceCidrSpec {
        cidrs: vec![range.into()],
    };
    Stated {
        resource_version: version.to_string(),
        object: Object::ServiceCidr(object::ServiceCidr { metadata, spec }),
    }
}

fn page(items: &[Stated], version: u64, token: &str) -> Result<Page, DecodeError> {
    Ok(Page {
        resource_version: version.to_string(),
        continue_token: token.into(),
        items: items.iter().cloned().map(Ok).collect(),
    })
}

fn bookmark(version: u64, initial_events_end: bool) -> WatchEvent {
    WatchEvent::Bookmark {
        resource_version: version.to_string(),
        initial_events_end,
    }
}

fn refused(code: u16) -> Failure {
    Failure::Refused {
        code,
        status: None,
        retry_after: None,
    }
}

fn lost() -> Failure {
    Failure::Connection("lost".into())
}

fn unreadable(name: &str) -> Unreadable {
    Unreadable {
        subject: Subject::new(Kind::ServiceCidr, "", name),
        resource_version: String::new(),
        reason: "damaged".into(),
    }
}

/// `+name` and `-name`.
fn names(changes: &Changes) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::ServiceCidr(Change::Applied(c)) => format!("+{}", c.name),
        Event::ServiceCidr(Change::Deleted(name)) => format!("-{name}"),
        other => panic!("{other:?}"),
    };
    let mut names: Vec<_> = changes.events.iter().map(|c| name(&c.event)).collect();
    names.sort();
    names
}

const LIST: Request = Request::List {
    continue_token: None,
};

impl Rig {
    /// Without jitter: the middle of the range.
    fn new() -> Self {
        let now = Instant::now();
        Self {
            reflector: Reflector::new(
                Kind::ServiceCidr,
                Format::Protobuf,
                Timing::default(),
                Box::new(|| 0.5),
                now,
            ),
            interner: Interner::new(),
            now,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// The next request, and the wait before it.
    fn request(&mut self) -> (Duration, Request) {
        let start = self.now;
        loop {
            match self.reflector.next(self.now) {
                Step::Wait(at) => {
                    assert!(at > self.now);
                    self.now = at;
                }
                Step::Send(request) => return (self.now - start, request),
            }
        }
    }

    /// The next request, without a wait.
    fn at_once(&mut self) -> Request {
        let (wait, request) = self.request();
        assert_eq!(wait, Duration::ZERO);
        request
    }

    fn page(&mut self, page: Result<Page, DecodeError>) -> Changes {
        let mut changes = Changes::default();
        self.reflector
            .page(self.now, page, &mut self.interner, &mut changes);
        changes
    }

    fn event(&mut self, event: WatchEvent) -> (Flow, Changes) {
        let mut changes = Changes::default();
        let flow = self
            .reflector
            .event(self.now, Ok(event), &mut self.interner, &mut changes);
        (flow, changes)
    }

    fn applied(&mut self, stated: Stated) -> Vec<String> {
        names(&self.event(WatchEvent::Applied(stated)).1)
    }

    fn failed(&mut self, failure: Failure) {
        self.reflector.failed(self.now, failure);
    }

    /// A rig that knows `a` and `b` and watches from version 10.
    fn watching() -> Self {
        let mut rig = Self::new();
        rig.at_once();
        rig.applied(cidr("a", 3, "10.0.0.0/24"));
        rig.applied(cidr("b", 2, "10.0.1.0/24"));
        assert_eq!(rig.event(bookmark(10, true)).0, Flow::Continue);
        assert!(rig.reflector.is_complete());
        rig
    }
}

fn watch(version: Option<&str>) -> Request {
    Request::Watch {
        resource_version: version.map(str::to_owned),
        timeout_seconds: 450,
    }
}

#[test]
fn a_streaming_list_ends_with_its_bookmark_and_becomes_a_watch() {
    let mut rig = Rig::new();
    assert_eq!(rig.at_once(), watch(None));
    assert_eq!(rig.applied(cidr("a", 3, "10.0.0.0/24")), ["+a"]);
    assert_eq!(rig.applied(cidr("b", 2, "10.0.1.0/24")), ["+b"]);
    assert!(!rig.reflector.is_complete());
    let (flow, changes) = rig.event(bookmark(10, true));
    assert_eq!((flow, changes), (Flow::Continue, Changes::default()));
    assert!(rig.reflector.is_complete());
    assert_eq!(rig.applied(cidr("a", 11, "10.9.0.0/24")), ["+a"]);
    // No change to what routing needs.
    assert_eq!(rig.applied(cidr("a", 12, "10.9.0.0/24")), [""; 0]);
    // Repeated.
    assert_eq!(rig.applied(cidr("a", 11, "10.0.0.0/24")), [""; 0]);
    let (_, changes) = rig.event(WatchEvent::Deleted(cidr("b", 13, "10.0.1.0/24")));
    assert_eq!(names(&changes), ["-b"]);
    rig.pass(Duration::from_secs(300));
    rig.reflector.ended(rig.now);
    assert_eq!(rig.at_once(), watch(Some("13")));
    assert_eq!(rig.reflector.take_notices(), []);
}

#[test]
fn a_server_without_streaming_lists_is_listed_in_pages() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.failed(refused(422));
    assert_eq!(rig.at_once(), LIST);
    let changes = rig.page(page(&[cidr("a", 3, "10.0.0.0/24")], 10, "more"));
    assert_eq!(names(&changes), ["+a"]);
    assert!(!rig.reflector.is_complete());
    let next = Request::List {
        continue_token: Some("more".into()),
    };
    assert_eq!(rig.at_once(), next);
    let changes = rig.page(page(&[cidr("b", 2, "10.0.1.0/24")], 10, ""));
    assert_eq!(names(&changes), ["+b"]);
    assert!(rig.reflector.is_complete());
    assert_eq!(rig.at_once(), watch(Some("10")));
    assert_eq!(rig.reflector.take_notices(), [Notice::NoStreamingLists]);
    // The refusal is remembered.
    rig.failed(refused(410));
    assert_eq!(rig.request().1, LIST);
}

#[test]
fn expiry_in_the_middle_of_paging_starts_over() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.failed(refused(400));
    rig.at_once();
    rig.page(page(&[cidr("a", 3, "10.0.0.0/24")], 10, "more"));
    rig.at_once();
    rig.failed(refused(410));
    let (wait, request) = rig.request();
    assert_eq!((wait.as_millis(), request), (200, LIST));
    // `a` was applied before the list started over, and is missing from the new one.
    let changes = rig.page(page(&[cidr("b", 12, "10.0.1.0/24")], 12, ""));
    assert_eq!(names(&changes), ["+b", "-a"]);
    assert_eq!(rig.reflector.take_notices(), [Notice::NoStreamingLists]);
}

#[test]
fn a_relist_yields_only_what_changed() {
    let expired = [
        refused(410),
        Failure::Refused {
            code: 500,
            status: Some(Status {
                reason: "Expired".into(),
                ..Status::default()
            }),
            retry_after: None,
        },
    ];
    for failure in expired {
        let mut rig = Rig::watching();
        rig.failed(failure);
        let (wait, request) = rig.request();
        assert_eq!((wait.as_millis(), request), (200, watch(None)));
        assert_eq!(rig.applied(cidr("a", 3, "10.0.0.0/24")), [""; 0]);
        assert_eq!(rig.applied(cidr("c", 15, "10.0.2.0/24")), ["+c"]);
        assert_eq!(names(&rig.event(bookmark(20, true)).1), ["-b"]);
        assert_eq!(rig.reflector.take_notices(), []);
    }
}

#[test]
fn an_error_event_with_code_410_restarts_the_list() {
    let mut rig = Rig::watching();
    let gone = Status {
        code: 410,
        ..Status::default()
    };
    assert_eq!(rig.event(WatchEvent::Error(gone)).0, Flow::Stop);
    assert_eq!(rig.request().1, watch(None));
}

#[test]
fn an_unreachable_server_changes_nothing_and_delays_grow() {
    let mut rig = Rig::watching();
    rig.pass(Duration::from_secs(60));
    let mut waits = Vec::new();
    for _ in 0..10 {
        rig.failed(lost());
        let (wait, request) = rig.request();
        assert_eq!(request, watch(Some("10")));
        waits.push(wait.as_millis());
    }
    let expected = [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
    assert_eq!(waits, expected);
    assert!(rig.reflector.is_complete());
    assert_eq!(rig.reflector.take_notices(), [Notice::Failing(lost())]);
    // The watch resumes without a list.
    assert_eq!(rig.applied(cidr("c", 11, "10.0.2.0/24")), ["+c"]);
    assert_eq!(rig.reflector.take_notices(), [Notice::Recovered]);
    // Later, delays start over.
    rig.pass(Duration::from_secs(11));
    rig.failed(lost());
    assert_eq!(rig.request().0.as_millis(), 200);
}

#[test]
fn retry_after_is_obeyed() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.failed(Failure::Refused {
        code: 429,
        status: None,
        retry_after: Some(7),
    });
    assert_eq!(rig.request().0.as_millis(), 7200);
}

#[test]
fn a_watch_that_ends_immediately_is_delayed() {
    let mut rig = Rig::watching();
    rig.pass(Duration::from_secs(20));
    rig.reflector.ended(rig.now);
    assert_eq!(rig.at_once(), watch(Some("10")));
    rig.reflector.ended(rig.now);
    assert_eq!(rig.request().0.as_millis(), 200);
}

#[test]
fn silence_ends_a_streaming_list_and_the_next_list_uses_pages() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.applied(cidr("a", 3, "10.0.0.0/24"));
    assert_eq!(rig.reflector.deadline() - rig.now, Duration::from_secs(30));
    rig.now = rig.reflector.deadline();
    rig.reflector.expired(rig.now);
    assert_eq!(rig.request().1, LIST);
    rig.page(page(&[cidr("a", 3, "10.0.0.0/24")], 10, ""));
    assert_eq!(rig.at_once(), watch(Some("10")));
    rig.failed(refused(410));
    assert_eq!(rig.request().1, watch(None));
}

#[test]
fn an_early_bookmark_ends_a_streaming_list() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.applied(cidr("a", 3, "10.0.0.0/24"));
    assert_eq!(rig.event(bookmark(7, false)).0, Flow::Stop);
    assert_eq!(rig.request().1, LIST);
    assert!(!rig.reflector.is_complete());
}

#[test]
fn tolerated_silence_depends_on_bookmarks() {
    let mut rig = Rig::watching();
    assert_eq!(rig.reflector.deadline() - rig.now, Duration::from_secs(180));
    rig.pass(Duration::from_secs(60));
    rig.event(bookmark(15, false));
    assert_eq!(rig.reflector.deadline() - rig.now, Duration::from_secs(180));
    rig.now = rig.reflector.deadline();
    rig.reflector.expired(rig.now);
    assert_eq!(rig.request().1, watch(Some("15")));

    // Without bookmarks, silence may last as long as the watch.
    let mut rig = Rig::new();
    rig.at_once();
    rig.failed(refused(400));
    rig.at_once();
    rig.page(page(&[], 10, ""));
    rig.at_once();
    assert_eq!(rig.reflector.deadline() - rig.now, Duration::from_secs(480));
}

#[test]
fn a_server_that_refuses_protobuf_gets_requests_for_json() {
    for code in [406, 415] {
        let mut rig = Rig::new();
        rig.at_once();
        rig.failed(refused(code));
        assert_eq!(rig.at_once(), watch(None));
        assert_eq!(rig.reflector.format(), Format::Json);
        assert_eq!(rig.reflector.take_notices(), [Notice::FallBackToJson]);
        // A second refusal is an ordinary failure.
        rig.failed(refused(code));
        assert_eq!(rig.request().0.as_millis(), 200);
    }
}

#[test]
fn a_missing_optional_api_is_skipped_and_retried_later() {
    for (code, millis) in [(403, 200), (404, 300_000)] {
        let mut rig = Rig::new();
        rig.at_once();
        rig.failed(refused(code));
        assert!(rig.reflector.is_complete());
        let (wait, request) = rig.request();
        assert_eq!((wait.as_millis(), request), (millis, watch(None)));
        assert_eq!(
            rig.reflector.take_notices(),
            [Notice::Absent(refused(code))]
        );
        rig.applied(cidr("a", 3, "10.0.0.0/24"));
        rig.event(bookmark(10, true));
        // Missing again: the known objects are kept.
        rig.failed(refused(code));
        assert_eq!(rig.request().1, watch(Some("10")));
    }
    let now = Instant::now();
    let timing = Timing::default();
    let jitter: Jitter = Box::new(|| 0.5);
    let mut services = Reflector::new(Kind::Service, Format::Json, timing, jitter, now);
    assert!(matches!(services.next(now), Step::Send(_)));
    services.failed(now, refused(403));
    assert!(!services.is_complete());
}

#[test]
fn an_unreadable_object_keeps_its_last_valid_version() {
    let mut rig = Rig::watching();
    let (flow, changes) = rig.event(WatchEvent::Unreadable(unreadable("a")));
    assert_eq!(flow, Flow::Continue);
    assert_eq!(names(&changes), [""; 0]);
    let [problem @ What::Undecodable { .. }] = changes.problems.as_slice() else {
        panic!("{changes:?}");
    };
    // The same problem is reported once.
    let (_, changes) = rig.event(WatchEvent::Unreadable(unreadable("a")));
    assert_eq!(changes, Changes::default());
    // Other objects are updated, and a new list follows.
    assert_eq!(rig.applied(cidr("c", 11, "10.0.2.0/24")), ["+c"]);
    assert_eq!(rig.reflector.deadline() - rig.now, Duration::from_secs(5));
    rig.now = rig.reflector.deadline();
    rig.reflector.expired(rig.now);
    assert_eq!(rig.reflector.take_notices(), [Notice::Relisting]);
    assert_eq!(rig.at_once(), watch(None));
    let (_, changes) = rig.event(WatchEvent::Applied(cidr("a", 12, "10.0.0.0/24")));
    assert_eq!(changes.resolved.as_slice(), std::slice::from_ref(problem));
    assert_eq!(names(&rig.event(bookmark(20, true)).1), ["-b", "-c"]);
}

#[test]
fn a_list_with_a_nameless_object_deletes_nothing() {
    let mut rig = Rig::watching();
    rig.failed(refused(410));
    rig.request();
    rig.applied(cidr("a", 3, "10.0.0.0/24"));
    rig.event(WatchEvent::Unreadable(unreadable("")));
    assert_eq!(names(&rig.event(bookmark(20, true)).1), [""; 0]);
    for seconds in [5, 10, 20] {
        assert_eq!((rig.reflector.deadline() - rig.now).as_secs(), seconds);
        rig.now = rig.reflector.deadline();
        rig.reflector.expired(rig.now);
        rig.at_once();
        rig.event(WatchEvent::Unreadable(unreadable("")));
        assert_eq!(names(&rig.event(bookmark(20, true)).1), [""; 0]);
    }
    rig.now = rig.reflector.deadline();
    rig.reflector.expired(rig.now);
    rig.at_once();
    rig.applied(cidr("a", 3, "10.0.0.0/24"));
    assert_eq!(names(&rig.event(bookmark(30, true)).1), ["-b"]);
    assert_eq!((rig.reflector.deadline() - rig.now).as_secs(), 180);
}

#[test]
fn an_invalid_object_is_a_problem_until_it_is_corrected() {
    let mut rig = Rig::watching();
    let (_, changes) = rig.event(WatchEvent::Applied(cidr("a", 11, "10.0.0.0/99")));
    assert_eq!(names(&changes), [""; 0]);
    assert!(matches!(changes.problems.as_slice(), [What::Invalid(_)]));
    // The object was read: a new list is not needed.
    assert_eq!((rig.reflector.deadline() - rig.now).as_secs(), 180);
    let (_, changes) = rig.event(WatchEvent::Applied(cidr("a", 12, "10.7.0.0/24")));
    assert_eq!(names(&changes), ["+a"]);
    assert_eq!(changes.resolved.len(), 1);
    // An object that was never valid is not delivered; its problem ends with it.
    let (_, changes) = rig.event(WatchEvent::Applied(cidr("x", 13, "nonsense")));
    assert_eq!(changes.problems.len(), 1);
    let (_, changes) = rig.event(WatchEvent::Deleted(cidr("x", 14, "nonsense")));
    assert_eq!(names(&changes), [""; 0]);
    assert_eq!(changes.resolved.len(), 1);
}

#[test]
fn a_server_restored_from_a_backup_is_relisted() {
    let mut rig = Rig::watching();
    rig.event(bookmark(50, false));
    assert_eq!(rig.event(bookmark(49, false)).0, Flow::Stop);
    assert_eq!(rig.request().1, watch(None));

    // The same for a server that refuses the version.
    let mut rig = Rig::watching();
    for _ in 0..2 {
        rig.failed(refused(500));
        assert_eq!(rig.request().1, watch(Some("10")));
    }
    rig.failed(refused(500));
    assert_eq!(rig.request().1, watch(None));

    // An overloaded or unauthorized watch keeps its position.
    let mut rig = Rig::watching();
    for code in [429, 503, 401, 403, 429, 503] {
        rig.failed(refused(code));
        let position = match rig.request().1 {
            Request::Watch {
                resource_version, ..
            } => resource_version,
            other => panic!("{other:?}"),
        };
        assert_eq!(position.as_deref(), Some("10"));
    }
}

#[test]
fn an_undecodable_event_stops_the_watch() {
    let mut rig = Rig::watching();
    let mut changes = Changes::default();
    let flow = rig.reflector.event(
        rig.now,
        Err(DecodeError::Magic),
        &mut rig.interner,
        &mut changes,
    );
    assert_eq!(flow, Flow::Stop);
    assert_eq!(rig.request().1, watch(Some("10")));
}

#[test]
fn a_list_without_a_version_is_rejected() {
    let mut rig = Rig::new();
    rig.at_once();
    rig.failed(refused(422));
    rig.at_once();
    let page = Page::default();
    rig.page(Ok(page));
    assert!(!rig.reflector.is_complete());
    assert_eq!(rig.request().1, LIST);
}
