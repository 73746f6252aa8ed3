//! The setups of each service's clients.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Missed, Supervise};
use crate::cfg;
use crate::cmap::{self, TrackEvents, Tracker};
use crate::cpg::{self, GroupName};
use crate::error::Result;
use crate::evs;
use crate::quorum;
use crate::votequorum;
use crate::wire::values::TrackFlags;

/// A tracker of cmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CmapTracker {
    tracker: Tracker,
    key: String,
    events: TrackEvents,
}

impl CmapTracker {
    /// As [`Client::track_add`](crate::cmap::Client::track_add). The daemon does not say what the
    /// keys' values are, now or after a gap: [`Missed::Changes`].
    pub fn new(key: impl Into<String>, events: TrackEvents) -> Self {
        // Clients count their own from 1.
        static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
        Self { tracker: Tracker(NEXT.fetch_add(1, Ordering::Relaxed)), key: key.into(), events }
    }

    /// The tracker in its notifications, before a gap and after.
    pub fn tracker(&self) -> Tracker {
        self.tracker
    }

    /// The key, or what keys begin with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The events that it notifies of.
    pub fn events(&self) -> TrackEvents {
        self.events
    }
}

impl Supervise for cmap::Client {
    type Setup = CmapTracker;
    #[cfg(feature = "tokio")]
    type Async = cmap::AsyncClient;

    const MOST: usize = usize::MAX;

    fn set_up(client: &Self, setup: &CmapTracker) -> Result<()> {
        client.track_add_as(setup.tracker, &setup.key, setup.events)
    }

    fn take_down(client: &Self, setup: &CmapTracker) -> Result<()> {
        client.track_delete(setup.tracker)
    }

    fn missed(_: &CmapTracker) -> Missed {
        Missed::Changes
    }
}

/// How quorum is tracked, as [`Client::track_start`](crate::quorum::Client::track_start). With
/// `CURRENT` or `CHANGES` the state after a gap comes as an event: [`Missed::States`].
impl Supervise for quorum::Client {
    type Setup = TrackFlags;
    #[cfg(feature = "tokio")]
    type Async = quorum::AsyncClient;

    const MOST: usize = 1;

    fn set_up(client: &Self, setup: &TrackFlags) -> Result<()> {
        client.track_start(*setup)
    }

    fn take_down(client: &Self, _: &TrackFlags) -> Result<()> {
        client.track_stop()
    }

    fn missed(setup: &TrackFlags) -> Missed {
        missed_states(*setup)
    }
}

/// How votequorum is tracked, as [`Client::track_start`](crate::votequorum::Client::track_start).
/// With `CURRENT` or `CHANGES` the state after a gap comes as an event: [`Missed::States`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VotequorumTracker {
    /// The context in its notifications.
    pub context: u64,
    /// The notifications to be sent.
    pub flags: TrackFlags,
}

impl Supervise for votequorum::Client {
    type Setup = VotequorumTracker;
    #[cfg(feature = "tokio")]
    type Async = votequorum::AsyncClient;

    const MOST: usize = 1;

    fn set_up(client: &Self, setup: &VotequorumTracker) -> Result<()> {
        client.track_start(setup.context, setup.flags)
    }

    fn take_down(client: &Self, _: &VotequorumTracker) -> Result<()> {
        client.track_stop()
    }

    fn missed(setup: &VotequorumTracker) -> Missed {
        missed_states(setup.flags)
    }
}

fn missed_states(flags: TrackFlags) -> Missed {
    if flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES) {
        Missed::States
    } else {
        Missed::Changes
    }
}

/// The group joined, as [`Client::join`](crate::cpg::Client::join). To its other members a gap is a
/// leave and a join. What was sent in between does not come again: [`Missed::Messages`].
impl Supervise for cpg::Client {
    type Setup = GroupName;
    #[cfg(feature = "tokio")]
    type Async = cpg::AsyncClient;

    const MOST: usize = 1;

    fn set_up(client: &Self, setup: &GroupName) -> Result<()> {
        client.join(setup)
    }

    fn take_down(client: &Self, setup: &GroupName) -> Result<()> {
        client.leave(setup)
    }

    fn missed(_: &GroupName) -> Missed {
        Missed::Messages
    }
}

/// Being asked about shutdowns, as [`Client::track_start`](crate::cfg::Client::track_start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CfgTracker;

/// A shutdown that is being decided when the gap ends comes as an event: [`Missed::States`].
impl Supervise for cfg::Client {
    type Setup = CfgTracker;
    #[cfg(feature = "tokio")]
    type Async = cfg::AsyncClient;

    const MOST: usize = 1;

    fn set_up(client: &Self, _: &CfgTracker) -> Result<()> {
        client.track_start()
    }

    fn take_down(client: &Self, _: &CfgTracker) -> Result<()> {
        client.track_stop()
    }

    fn missed(_: &CfgTracker) -> Missed {
        Missed::States
    }
}

/// A group joined, as [`Client::join`](crate::evs::Client::join): [`Missed::Messages`].
impl Supervise for evs::Client {
    type Setup = evs::GroupName;
    #[cfg(feature = "tokio")]
    type Async = evs::AsyncClient;

    const MOST: usize = evs::MAX_JOINED_GROUPS;

    fn set_up(client: &Self, setup: &evs::GroupName) -> Result<()> {
        client.join(&[*setup])
    }

    fn take_down(client: &Self, setup: &evs::GroupName) -> Result<()> {
        client.leave(&[*setup])
    }

    fn missed(_: &evs::GroupName) -> Missed {
        Missed::Messages
    }
}
