//! A small model of a server on the virtual clock that fails at random. Once it has recovered, the
//! reflector has delivered exactly its objects.

use std::collections::BTreeMap;

use model::Cidr;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    /// An object is added or changed.
    Put(u8, u8),
    Delete(u8),
    /// Time passes.
    Wait(u16),
    /// The connection is lost.
    Cut,
    /// This many requests are refused.
    Refuse(u16, u8),
    /// History is forgotten.
    Expire,
    /// The last event is repeated.
    Repeat,
    /// An undecodable event, with or without an object's name.
    Garbage(Option<u8>),
    /// An object becomes unreadable, with or without its name.
    Spoil(u8, bool),
    /// This many objects are damaged in transit.
    Mangle(u8, bool),
    /// Streaming lists are switched on or off.
    Streaming(bool),
    /// A bookmark.
    Bookmark,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..6u8, any::<u8>()).prop_map(|(name, range)| Act::Put(name, range)),
        3 => (0..6u8).prop_map(Act::Delete),
        3 => (0..40_000u16).prop_map(Act::Wait),
        2 => Just(Act::Cut),
        2 => (prop::sample::select(vec![401, 403, 410, 429, 500, 503, 504]), 1..4u8)
            .prop_map(|(code, times)| Act::Refuse(code, times)),
        1 => Just(Act::Expire),
        2 => Just(Act::Repeat),
        1 => prop::option::of(0..6u8).prop_map(Act::Garbage),
        1 => (0..6u8, any::<bool>()).prop_map(|(name, named)| Act::Spoil(name, named)),
        1 => (1..4u8, any::<bool>()).prop_map(|(times, named)| Act::Mangle(times, named)),
        1 => any::<bool>().prop_map(Act::Streaming),
        1 => Just(Act::Bookmark),
    ];
    prop::collection::vec(act, 1..60)
}

/// The state in which an object is served.
#[derive(Clone, Debug, PartialEq)]
enum Served {
    Good(u8),
    Spoilt { named: bool },
}

struct Server {
    version: u64,
    objects: BTreeMap<u8, Served>,
    /// Version, name, and the object; `None` for a deletion.
    history: Vec<(u64, u8, Option<Served>)>,
    compacted: u64,
    streaming: bool,
    refusals: Vec<u16>,
    mangled: Vec<bool>,
    /// The version up to which the open watch has been served.
    open: Option<u64>,
}

fn stated(name: u8, range: u8, version: u64) -> Stated {
    cidr(&format!("c{name}"), version, &format!("10.{range}.0.0/16"))
}

fn item(name: u8, served: &Served, version: u64) -> Result<Stated, Unreadable> {
    match served {
        Served::Good(range) => Ok(stated(name, *range, version)),
        Served::Spoilt { named: true } => Err(unreadable(&format!("c{name}"))),
        Served::Spoilt { named: false } => Err(unreadable("")),
    }
}

/// The server, the reflector, and the delivered objects.
struct World {
    server: Server,
    rig: Rig,
    delivered: BTreeMap<String, Cidr>,
    waiting_until: Option<Instant>,
}

impl World {
    fn new() -> Self {
        let server = Server {
            version: 1,
            objects: BTreeMap::new(),
            history: Vec::new(),
            compacted: 0,
            streaming: true,
            refusals: Vec::new(),
            mangled: Vec::new(),
            open: None,
        };
        Self {
            server,
            rig: Rig::new(),
            delivered: BTreeMap::new(),
            waiting_until: None,
        }
    }

    fn deliver(&mut self, changes: Changes) {
        for changed in changes.events {
            match changed.event {
                Event::ServiceCidr(Change::Applied(c)) => {
                    let old = self.delivered.insert(c.name.to_string(), c.cidrs[0]);
                    assert_ne!(old, Some(c.cidrs[0]), "delivered without a change");
                }
                Event::ServiceCidr(Change::Deleted(name)) => {
                    assert!(
                        self.delivered.remove(&*name).is_some(),
                        "{name} was never delivered"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn put(&mut self, name: u8, served: Option<Served>) {
        let server = &mut self.server;
        let before = match &served {
            Some(served) => server.objects.insert(name, served.clone()),
            None => server.objects.remove(&name),
        };
        if before.is_some() || served.is_some() {
            server.version += 1;
            server.history.push((server.version, name, served));
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Put(name, range) => self.put(*name, Some(Served::Good(*range))),
            Act::Delete(name) => self.put(*name, None),
            Act::Spoil(name, named) => {
                if self.server.objects.contains_key(name) {
                    self.put(*name, Some(Served::Spoilt { named: *named }));
                }
            }
            Act::Wait(millis) => self.pass(Duration::from_millis((*millis).into())),
            Act::Cut => {
                if self.server.open.take().is_some() {
                    self.rig.failed(lost());
                }
            }
            Act::Refuse(code, times) => {
                let more = std::iter::repeat_n(*code, usize::from(*times));
                self.server.refusals.extend(more);
            }
            Act::Expire => {
                self.server.version += 1;
                self.server.compacted = self.server.version;
                self.server.history.clear();
            }
            Act::Repeat => {
                let seen = self.server.open.unwrap_or(0);
                let last = self.server.history.iter().rfind(|e| e.0 <= seen).cloned();
                if let Some(entry) = last {
                    self.send(&entry);
                }
            }
            Act::Garbage(name) => {
                if self.server.open.is_some() {
                    let name = name.map_or(String::new(), |n| format!("c{n}"));
                    let (_, changes) = self.rig.event(WatchEvent::Unreadable(unreadable(&name)));
                    self.deliver(changes);
                }
            }
            Act::Mangle(times, named) => {
                let more = std::iter::repeat_n(*named, usize::from(*times));
                self.server.mangled.extend(more);
            }
            Act::Streaming(on) => self.server.streaming = *on,
            Act::Bookmark => {
                if let Some(seen) = self.server.open {
                    self.flow(bookmark(seen, false));
                }
            }
        }
        self.serve();
    }

    /// Send an event; whether the watch continues.
    fn flow(&mut self, event: WatchEvent) -> bool {
        let (flow, changes) = self.rig.event(event);
        self.deliver(changes);
        if flow == Flow::Stop {
            self.server.open = None;
        }
        flow == Flow::Continue
    }

    fn send(&mut self, (version, name, served): &(u64, u8, Option<Served>)) -> bool {
        if let Some(named) = self.server.mangled.pop() {
            let spoilt = item(*name, &Served::Spoilt { named }, *version);
            let Err(unreadable) = spoilt else {
                panic!("{spoilt:?}")
            };
            return self.flow(WatchEvent::Unreadable(unreadable));
        }
        let event = match served {
            None => WatchEvent::Deleted(stated(*name, 0, *version)),
            Some(served) => match item(*name, served, *version) {
                Ok(stated) => WatchEvent::Applied(stated),
                Err(unreadable) => WatchEvent::Unreadable(unreadable),
            },
        };
        self.flow(event)
    }

    /// Let time pass, with the steps due in it.
    fn pass(&mut self, time: Duration) {
        let end = self.rig.now + time;
        loop {
            self.serve();
            let due = match (self.server.open, self.waiting_until) {
                (Some(_), _) => self.rig.reflector.deadline(),
                (None, Some(at)) => at,
                (None, None) => self.rig.now,
            };
            if due > end {
                break;
            }
            self.rig.now = due.max(self.rig.now);
            if self.server.open.take().is_some() {
                self.rig.reflector.expired(self.rig.now);
            }
        }
        self.rig.now = end;
    }

    /// Answer requests and send events until no step is due.
    fn serve(&mut self) {
        loop {
            if let Some(seen) = self.server.open {
                if seen < self.server.compacted {
                    let gone = Status {
                        code: 410,
                        ..Status::default()
                    };
                    self.flow(WatchEvent::Error(gone));
                    continue;
                }
                let news = self.server.history.iter().find(|e| e.0 > seen).cloned();
                let Some(entry) = news else { return };
                if self.send(&entry) {
                    self.server.open = Some(entry.0);
                }
                continue;
            }
            match self.rig.reflector.next(self.rig.now) {
                Step::Wait(at) => {
                    self.waiting_until = Some(at);
                    return;
                }
                Step::Send(request) => self.answer(request),
            }
        }
    }

    fn answer(&mut self, request: Request) {
        self.waiting_until = None;
        let version = self.server.version;
        if !self.server.refusals.is_empty() {
            let code = self.server.refusals.remove(0);
            return self.rig.failed(refused(code));
        }
        let items: Vec<_> = self
            .server
            .objects
            .iter()
            .map(|(name, served)| item(*name, served, version))
            .collect();
        match request {
            Request::List { .. } => {
                let page = Page {
                    resource_version: version.to_string(),
                    continue_token: String::new(),
                    items,
                };
                let changes = self.rig.page(Ok(page));
                self.deliver(changes);
            }
            Request::Watch {
                resource_version: Some(from),
                ..
            } => self.server.open = Some(from.parse().expect("a number")),
            Request::Watch { .. } if !self.server.streaming => self.rig.failed(refused(422)),
            Request::Watch { .. } => {
                self.server.open = Some(version);
                for item in items {
                    let event = match item {
                        Ok(stated) => WatchEvent::Applied(stated),
                        Err(unreadable) => WatchEvent::Unreadable(unreadable),
                    };
                    self.flow(event);
                }
                self.flow(bookmark(version, true));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn after_recovery_exactly_the_servers_objects_are_delivered(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.server.refusals.clear();
        world.server.mangled.clear();
        for (name, served) in world.server.objects.clone() {
            if matches!(served, Served::Spoilt { .. }) {
                world.put(name, Some(Served::Good(name)));
            }
        }
        // Longer than any back-off and any delay before a list.
        world.pass(Duration::from_secs(1000));
        let truth: BTreeMap<String, Cidr> = world
            .server
            .objects
            .iter()
            .map(|(name, served)| {
                let Served::Good(range) = served else { panic!("{served:?}") };
                (format!("c{name}"), format!("10.{range}.0.0/16").parse().expect("a range"))
            })
            .collect();
        prop_assert!(world.rig.reflector.is_complete());
        prop_assert_eq!(world.delivered, truth);
    }
}
