//! The lanes of a picture: the hooks in the order in which the kernel calls them.

use std::fmt;

use serde::{Serialize, Serializer};
use trace::{Origin, Step};

/// A part of a packet's path, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The kernel's names.
pub(crate) enum Place {
    /// Where packets start.
    Start,
    Ingress,
    /// Between ports of one bridge.
    Bridge,
    Prerouting,
    /// The routing decision about a packet that has entered.
    Routing,
    Input,
    Forward,
    /// The routing decision about a packet of this node.
    OutputRouting,
    Output,
    /// Routing again, after a rule has changed the packet.
    Rerouting,
    Postrouting,
    Egress,
    /// Where packets arrive.
    Arrival,
    /// Chains that several hooks reach.
    Shared,
    /// Chains that no hook reaches.
    Unused,
}

impl Place {
    /// The five hooks of the IP layers.
    pub(crate) const HOOKS: [Place; 5] = [
        Place::Prerouting,
        Place::Input,
        Place::Forward,
        Place::Output,
        Place::Postrouting,
    ];

    /// Return the hook of this name; `None` for other places.
    pub(crate) fn of_hook(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "ingress" => Place::Ingress,
            "prerouting" => Place::Prerouting,
            "input" => Place::Input,
            "forward" => Place::Forward,
            "output" => Place::Output,
            "postrouting" => Place::Postrouting,
            "egress" => Place::Egress,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Place::Start => "start",
            Place::Ingress => "ingress",
            Place::Bridge => "bridge",
            Place::Prerouting => "prerouting",
            Place::Routing | Place::OutputRouting => "routing",
            Place::Input => "input",
            Place::Forward => "forward",
            Place::Output => "output",
            Place::Rerouting => "routing again",
            Place::Postrouting => "postrouting",
            Place::Egress => "egress",
            Place::Arrival => "end",
            Place::Shared => "several hooks",
            Place::Unused => "not used",
        }
    }
}

/// A lane. A packet that is sent to this node itself passes the hooks a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The number of the pass, from 0.
    pub(crate) pass: u8,
    pub(crate) place: Place,
}

impl Lane {
    pub(crate) const START: Self = Self::of(Place::Start);

    /// The end of all paths.
    pub(crate) const ARRIVAL: Self = Self {
        pass: u8::MAX,
        place: Place::Arrival,
    };

    pub(crate) const fn of(place: Place) -> Self {
        Self { pass: 0, place }
    }

    /// Return the lane of a packet's next step. Each path leads from a lane to itself or to a later one.
    pub(crate) fn next(self, step: &Step, from: Origin) -> Self {
        let place = match step.hook {
            "bridge" => Place::Bridge,
            // IPVS works within the hook that calls it.
            "ipvs" if self.place == Place::Output => Place::Output,
            "ipvs" => Place::Input,
            hook => Place::of_hook(hook).unwrap_or_else(|| self.routing(from)),
        };
        let pass = if place < self.place {
            self.pass.saturating_add(1)
        } else {
            self.pass
        };
        Self { pass, place }
    }

    fn routing(self, from: Origin) -> Place {
        match self.place {
            Place::Start if from == Origin::Node => Place::OutputRouting,
            Place::Start | Place::Ingress | Place::Bridge | Place::Prerouting | Place::Routing => {
                Place::Routing
            }
            Place::Input | Place::Forward | Place::OutputRouting => Place::OutputRouting,
            _ => Place::Rerouting,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place.name())?;
        match self.pass {
            0 | u8::MAX => Ok(()),
            pass => write!(f, " ({})", u32::from(pass) + 1),
        }
    }
}

impl Serialize for Lane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
