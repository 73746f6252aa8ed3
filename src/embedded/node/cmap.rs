//! The cmap service, as exec/cmap.c.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::icmap::{Icmap, Iter, raw};
use super::stats::{self, Stats};
use super::trackers::{Notice, TrackerId, Watcher};
use super::{ClientNumber, Context, Exec, Membership, c_string};
use crate::cmap::{TrackEvents, Value};
use crate::error::CsError;
use crate::wire::cmap::{
    AdjustInt, AdjustIntReply, AnyRequest, Delete, DeleteReply, Get, GetReply, IterFinalize,
    IterFinalizeReply, IterInit, IterInitReply, IterNext, IterNextReply, RawValue, Set,
    SetCurrentMapReply, SetReply, TrackAdd, TrackAddReply, TrackDelete, TrackDeleteReply,
};
use crate::wire::values::NodeId;

const CONFIG_VERSION: &str = "totem.config_version";

/// The largest reply buffer that the daemon can allocate, in bytes. It refuses a request for more.
/// A reply to a request for less that does not fit in the ring is lost.
const MAX_BUFFER: u64 = 1 << 40;

/// The most open iterators of a connection, and the most trackers. The daemon's only limit is its
/// memory. Each change of a key looks at all trackers.
const MAX_HANDLES: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Cmap {
    sessions: BTreeMap<ClientNumber, Session>,
}

/// The open iterators and trackers of a connection.
#[derive(Debug, Default)]
struct Session {
    /// The connection works on the stats map.
    on_stats: bool,
    iterators: BTreeMap<u64, AnyIter>,
    trackers: BTreeMap<u64, OpenTracker>,
    last_handle: u64,
}

#[derive(Debug)]
enum AnyIter {
    Icmap(Iter),
    Stats(stats::Iter),
}

#[derive(Debug)]
struct OpenTracker {
    instance: u64,
    /// The id in the session's map. A session with trackers cannot change its map.
    id: TrackerId,
}

impl Session {
    /// Returns a new handle that looks like libqb's: large, never 0, and never used before.
    fn new_handle(&mut self) -> u64 {
        self.last_handle += 1;
        (0x5eed_0000 << 32) | self.last_handle
    }
}

impl Cmap {
    pub(crate) fn start(context: &mut Context<'_>) {
        let events = TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::MODIFY;
        let _ = context.icmap.track(
            Bytes::from_static(CONFIG_VERSION.as_bytes()),
            events,
            Watcher::ConfigVersion,
        );
    }

    pub(crate) fn connect(&mut self, client: ClientNumber) {
        self.sessions.insert(client, Session::default());
    }

    pub(crate) fn disconnect(
        &mut self,
        context: &mut Context<'_>,
        stats: &mut Stats,
        client: ClientNumber,
    ) {
        let Some(session) = self.sessions.remove(&client) else {
            return;
        };
        for iterator in session.iterators.into_values() {
            if let AnyIter::Icmap(iterator) = iterator {
                let notices = context.icmap.finish(iterator);
                let is_for_others = |notice: &Notice| !matches!(notice.watcher, Watcher::Client { client: other, .. } if other == client);
                context.notify(notices.into_iter().filter(is_for_others).collect());
            }
        }
        for tracker in session.trackers.into_values() {
            if session.on_stats {
                stats.untrack(tracker.id)
            } else {
                context.icmap.untrack(tracker.id)
            }
        }
    }

    /// Multicasts the version of this node's configuration.
    pub(crate) fn send_config_version(context: &mut Context<'_>) {
        let version = context.icmap.get_as::<u64>(CONFIG_VERSION).unwrap_or(0);
        context.multicast(Exec::ConfigVersion(version));
    }

    pub(crate) fn deliver(context: &mut Context<'_>, from: NodeId, version: u64) {
        context.set(&format!("runtime.members.{from}.config_version"), version);
    }

    pub(crate) fn sync_process(context: &mut Context<'_>, _: &Membership) {
        Self::send_config_version(context);
    }

    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        stats: &mut Stats,
        client: ClientNumber,
        request: AnyRequest,
    ) {
        let Some(session) = self.sessions.get_mut(&client) else {
            return;
        };
        match request {
            AnyRequest::Set(Set { key_name, value }) => {
                let key = c_string(&key_name);
                let done = if session.on_stats {
                    stats.set(&key)
                } else {
                    change(context, &key, |map| {
                        if map.has_room(&key, &value) {
                            map.set(&key, &value)
                        } else {
                            Err(CsError::NoMemory)
                        }
                    })
                };
                context.reply_with(client, &SetReply {}, done);
            }
            AnyRequest::Delete(Delete { key_name }) => {
                let key = c_string(&key_name);
                let done = if session.on_stats {
                    Stats::refuse_change(&key)
                } else {
                    change(context, &key, |map| map.delete(&key))
                };
                context.reply_with(client, &DeleteReply {}, done);
            }
            AnyRequest::AdjustInt(AdjustInt { key_name, step }) => {
                let key = c_string(&key_name);
                let done = if session.on_stats {
                    Stats::refuse_change(&key)
                } else {
                    change(context, &key, |map| map.adjust(&key, step))
                };
                context.reply_with(client, &AdjustIntReply {}, done);
            }
            AnyRequest::Get(Get { key_name, value_len }) => {
                let key = c_string(&key_name);
                let value = if session.on_stats {
                    stats.get(&key)
                } else {
                    context.icmap.get(&key).cloned()
                };
                get(context, client, value, value_len);
            }
            AnyRequest::IterInit(_) if session.iterators.len() >= MAX_HANDLES => {
                let reply = IterInitReply { iter_handle: 0 };
                context.reply_with(client, &reply, Err(CsError::NoMemory));
            }
            AnyRequest::IterInit(IterInit { prefix }) => {
                let iter_handle = session.new_handle();
                let prefix = c_string(&prefix);
                let iterator = if session.on_stats {
                    AnyIter::Stats(Stats::iter(prefix))
                } else {
                    AnyIter::Icmap(Icmap::iter(prefix))
                };
                session.iterators.insert(iter_handle, iterator);
                context.reply(client, &IterInitReply { iter_handle });
            }
            AnyRequest::IterNext(IterNext { iter_handle }) => {
                let (next, error) = match session.iterators.get_mut(&iter_handle) {
                    None => (None, CsError::BadHandle),
                    Some(AnyIter::Stats(iterator)) => (stats.next(iterator), CsError::NoSections),
                    Some(AnyIter::Icmap(iterator)) => {
                        let (next, notices) = context.icmap.next(iterator);
                        context.notify(notices);
                        (next, CsError::NoSections)
                    }
                };
                let status = next.as_ref().map(|_| ()).ok_or(error);
                let (key_name, value) = next.unwrap_or_default();
                let (value_len, value_type) = (value.data.len() as u64, value.value_type);
                context.reply_with(
                    client,
                    &IterNextReply { key_name, value_len, value_type },
                    status,
                );
            }
            AnyRequest::IterFinalize(IterFinalize { iter_handle }) => {
                let iterator = session.iterators.remove(&iter_handle);
                let status = iterator.as_ref().map(|_| ()).ok_or(CsError::BadHandle);
                if let Some(AnyIter::Icmap(iterator)) = iterator {
                    let notices = context.icmap.finish(iterator);
                    context.notify(notices);
                }
                context.reply_with(client, &IterFinalizeReply {}, status);
            }
            AnyRequest::TrackAdd(_) if session.trackers.len() >= MAX_HANDLES => {
                let reply = TrackAddReply { track_handle: 0 };
                context.reply_with(client, &reply, Err(CsError::NoMemory));
            }
            AnyRequest::TrackAdd(TrackAdd { key_name, track_type, track_inst_handle }) => {
                let watcher = Watcher::Client { client, instance: track_inst_handle };
                let key = c_string(&key_name);
                let id = if session.on_stats {
                    stats.track(context.now, key, track_type, watcher)
                } else {
                    context.icmap.track(key, track_type, watcher)
                };
                let opened = id.map(|id| {
                    let handle = session.new_handle();
                    session
                        .trackers
                        .insert(handle, OpenTracker { instance: track_inst_handle, id });
                    handle
                });
                let status = opened.map(|_| ());
                context.reply_with(
                    client,
                    &TrackAddReply { track_handle: opened.unwrap_or(0) },
                    status,
                );
            }
            AnyRequest::TrackDelete(TrackDelete { track_handle }) => {
                let tracker = session.trackers.remove(&track_handle);
                let status = tracker.as_ref().map(|_| ()).ok_or(CsError::BadHandle);
                let track_inst_handle = tracker.as_ref().map_or(0, |tracker| tracker.instance);
                match tracker {
                    Some(tracker) if session.on_stats => stats.untrack(tracker.id),
                    Some(tracker) => context.icmap.untrack(tracker.id),
                    None => {}
                }
                context.reply_with(client, &TrackDeleteReply { track_inst_handle }, status);
            }
            AnyRequest::SetCurrentMap(request) => {
                let is_idle = session.iterators.is_empty() && session.trackers.is_empty();
                let status = match request.map {
                    _ if !is_idle => Err(CsError::Busy),
                    map @ (0 | 1) => {
                        session.on_stats = map == 1;
                        Ok(())
                    }
                    _ => Err(CsError::NotExist),
                };
                context.reply_with(client, &SetCurrentMapReply {}, status);
            }
        }
    }
}

/// Changes a key for a client, unless the key is read-only.
fn change(
    context: &mut Context<'_>,
    key: &[u8],
    change: impl FnOnce(&mut Icmap) -> Result<Vec<Notice>, CsError>,
) -> Result<(), CsError> {
    if context.icmap.is_read_only(key) {
        return Err(CsError::Access);
    }
    let notices = change(context.icmap)?;
    context.notify(notices);
    Ok(())
}

fn get(context: &mut Context<'_>, client: ClientNumber, value: Option<RawValue>, room: u64) {
    let answer = match value {
        _ if room > MAX_BUFFER => Err(CsError::NoMemory),
        None => Err(CsError::NotExist),
        Some(value) if room > 0 && room < value.data.len() as u64 => Err(CsError::InvalidParam),
        Some(value) => Ok(value),
    };
    match answer {
        Ok(value) => {
            let value_len = value.data.len() as u64;
            let data = if room > 0 { value.data } else { Bytes::new() };
            let zeros = room.saturating_sub(data.len() as u64);
            let value = RawValue { value_type: value.value_type, data };
            context.reply_padded(client, &GetReply { value_len, value }, Ok(()), zeros);
        }
        Err(error) => {
            let value = RawValue::default();
            context.reply_with(client, &GetReply { value_len: 0, value }, Err(error));
        }
    }
}

/// Sets a key before anybody tracks it.
pub(crate) fn preset(icmap: &mut Icmap, key: &str, value: impl Into<Value>) {
    let _ = icmap.set(key.as_bytes(), &raw(value));
}
