//! votequorum's configuration: read from the map at the daemon's start and on each change.

use super::super::Context;
use super::super::trackers::Notice;
use super::{
    DEFAULT_LAST_MAN_WINDOW, DEFAULT_QDEVICE_SYNC_TIMEOUT, DEFAULT_QDEVICE_TIMEOUT, Exec,
    TieBreaker, Votequorum, flag,
};
use crate::codec::CS_OK;
use crate::embedded::node;
use crate::votequorum::QDEVICE_NODE_ID;

impl Votequorum {
    /// Handles the change of a tracked key. Matches `votequorum_refresh_config`.
    pub(crate) fn refresh(&mut self, context: &mut Context<'_>, notice: &Notice) {
        if context
            .icmap
            .get_as::<u8>("config.totemconfig_reload_in_progress")
            .is_some_and(|reloading| reloading != 0)
        {
            return;
        }
        let is_reload = notice.key == b"config.totemconfig_reload_in_progress"[..];
        if is_reload
            && context
                .icmap
                .get_as::<i32>("config.reload_status")
                .is_some_and(|status| status != CS_OK)
        {
            return;
        }
        const CANCEL: &str = "quorum.cancel_wait_for_all";
        if notice.key == CANCEL
            && context.icmap.get_as::<u8>(CANCEL).is_some_and(|cancel| cancel >= 1)
        {
            context.set(CANCEL, 0u8);
            context.multicast(node::Exec::Votequorum(Exec::CancelWaitForAll));
            return;
        }
        let (old_votes, old_expected) = self.our_votes();
        // At run time the daemon only logs an error in the configuration.
        let _ = self.read_config(context, false);
        self.send_node_info(context, self.us);
        self.send_node_info(context, QDEVICE_NODE_ID);
        let (votes, expected) = self.our_votes();
        if votes != old_votes {
            context.multicast(node::Exec::Votequorum(Exec::NodeVotes { node: self.us, votes }));
        }
        if expected != old_expected {
            context.multicast(node::Exec::Votequorum(Exec::ExpectedVotes(expected)));
        }
    }

    /// Matches `votequorum_readconfig`.
    pub(super) fn read_config(
        &mut self,
        context: &mut Context<'_>,
        is_start: bool,
    ) -> Result<(), &'static str> {
        if !is_start {
            self.two_node = false;
            self.tie_breaker = self.initial_tie_breaker.clone();
            context.set("runtime.votequorum.atb_type", self.tie_breaker.number());
        }
        let mut expected = context.icmap.get_as::<u32>("quorum.expected_votes").unwrap_or(0);
        let nodes = self.read_nodelist(context);
        let model =
            context.icmap.get_as::<String>("quorum.device.model").filter(|model| !model.is_empty());
        let has_device = model.is_some();
        // u32::MAX, which is -1 in the daemon, stands for "to be computed".
        let mut device_votes = 0;
        if has_device {
            device_votes = context.icmap.get_as::<u32>("quorum.device.votes").unwrap_or(u32::MAX);
            let timeout = |key, default| context.icmap.get_as::<u32>(key).unwrap_or(default);
            self.qdevice_timeout = timeout("quorum.device.timeout", DEFAULT_QDEVICE_TIMEOUT);
            self.qdevice_sync_timeout =
                timeout("quorum.device.sync_timeout", DEFAULT_QDEVICE_SYNC_TIMEOUT);
            self.set_qdevice_can_operate(context, true);
        }
        if let Some(two_node) = context.icmap.get_as::<u8>("quorum.two_node") {
            self.two_node = two_node != 0;
        }
        if nodes.is_none() && expected == 0 {
            return Err(
                "configuration error: nodelist or quorum.expected_votes must be configured!",
            );
        }
        if self.two_node && has_device {
            if is_start {
                return Err(
                    "configuration error: two_node and quorum device cannot be configured at the same time!",
                );
            }
            if self.our_flags() & flag::QDEVICE_REGISTERED != 0 {
                self.two_node = false;
            } else {
                self.set_qdevice_can_operate(context, false);
            }
        }
        if is_start {
            self.read_features(context);
        }
        if self.wait_for_all_autoset {
            self.wait_for_all = self.two_node;
        }
        if self.two_node && self.tie_breaker != TieBreaker::None {
            self.two_node = false;
        }
        let (node_count, our_votes, mut node_expected) = nodes.unwrap_or_default();
        if self.tie_breaker != TieBreaker::None && node_expected % 2 == 1 && !self.wait_for_all {
            if self.last_man_standing {
                return Err(
                    "configuration error: auto_tie_breaker & last_man_standing not available in odd sized cluster",
                );
            }
            self.tie_breaker = TieBreaker::None;
            context.set("runtime.votequorum.atb_type", 0u32);
        }
        let conflicts = [
            (
                has_device && self.last_man_standing,
                "configuration error: quorum.device is not compatible with last_man_standing",
            ),
            (
                has_device && self.tie_breaker != TieBreaker::None,
                "configuration error: quorum.device is not compatible with auto_tie_breaker",
            ),
            (
                has_device && self.allow_downscale,
                "configuration error: quorum.device is not compatible with allow_downscale",
            ),
            (
                expected != 0 && has_device && device_votes == u32::MAX,
                "configuration error: quorum.device.votes must be specified when quorum.expected_votes is set",
            ),
            (
                has_device
                    && device_votes == u32::MAX
                    && nodes.is_some()
                    && node_count != node_expected,
                "configuration error: quorum.device.votes must be specified when not all nodes votes 1",
            ),
            (
                device_votes > 0
                    && expected != 0
                    && (expected.wrapping_sub(device_votes) as i32) < 2,
                "configuration error: quorum.device.votes is too high or expected_votes is too low",
            ),
        ];
        for (is_conflict, error) in conflicts {
            if is_conflict && is_start {
                return Err(error);
            }
            if is_conflict {
                self.set_qdevice_can_operate(context, false);
            }
        }
        let computed = has_device && device_votes == u32::MAX && expected == 0;
        if computed && nodes.is_some() && node_count == node_expected {
            device_votes = node_expected.wrapping_sub(1);
            node_expected = node_expected.wrapping_add(device_votes);
        }
        if self.expected_tracking {
            expected = self.tracking_barrier;
        }
        let (votes, from_nodelist) = match nodes {
            Some(_) => (our_votes, Some(node_expected)),
            None => (context.icmap.get_as::<u32>("quorum.votes").unwrap_or(1), None),
        };
        if let Some(us) = self.nodes.get_mut(&self.us) {
            us.votes = votes;
            us.expected_votes = from_nodelist.unwrap_or(us.expected_votes);
            us.expected_votes = if expected != 0 { expected } else { us.expected_votes };
        }
        if !has_device {
            self.qdevice_votes = 0;
        }
        if device_votes != u32::MAX {
            self.qdevice_votes = device_votes;
        }
        self.set_expected_barrier(context, self.our_votes().1);
        context.set("runtime.votequorum.two_node", u8::from(self.two_node));
        if self.wait_for_all {
            if is_start {
                self.set_wait_for_all_status(context, true);
            }
        } else if self.wait_for_all_autoset && self.wait_for_all_status {
            self.set_wait_for_all_status(context, false);
        }
        Ok(())
    }

    /// Reads the keys that the daemon reads only at its start.
    fn read_features(&mut self, context: &mut Context<'_>) {
        let flag = |key| context.icmap.get_as::<u8>(key).map(|value| value != 0);
        self.allow_downscale = flag("quorum.allow_downscale").unwrap_or(false);
        self.wait_for_all_autoset = flag("quorum.wait_for_all").is_none();
        self.wait_for_all = flag("quorum.wait_for_all").unwrap_or(false);
        self.last_man_standing = flag("quorum.last_man_standing").unwrap_or(false);
        self.expected_tracking =
            flag("quorum.expected_votes_tracking").unwrap_or(false) || self.allow_downscale;
        let has_tie_breaker = flag("quorum.auto_tie_breaker").unwrap_or(false);
        let window = context.icmap.get_as::<u32>("quorum.last_man_standing_window");
        self.last_man_window = window.unwrap_or(DEFAULT_LAST_MAN_WINDOW);
        if has_tie_breaker {
            let which = context.icmap.get_as::<String>("quorum.auto_tie_breaker_node");
            self.tie_breaker = which.map_or(TieBreaker::Lowest, |which| TieBreaker::parse(&which));
            context.set("runtime.votequorum.atb_type", self.tie_breaker.number());
        }
        self.initial_tie_breaker = self.tie_breaker.clone();
        if self.expected_tracking {
            // The daemon keeps the barrier in a file from one start to the next. Here every start
            // is the first.
            self.set_tracking_barrier(context, self.tracking_barrier);
        }
    }

    /// Returns the number of nodes in the nodelist, this node's votes and the votes of all nodes.
    /// Matches `votequorum_read_nodelist_configuration`.
    fn read_nodelist(&self, context: &Context<'_>) -> Option<(u32, u32, u32)> {
        const PREFIX: &str = "nodelist.node.";
        let our_position = context.icmap.get_as::<u32>("nodelist.local_node_pos")?;
        let (mut count, mut our_votes, mut expected, mut last) = (0, 0, 0u32, None);
        for (key, _) in context.icmap.with_prefix(PREFIX) {
            let rest = key
                .get(PREFIX.len()..)
                .and_then(|key| std::str::from_utf8(key).ok())
                .unwrap_or_default();
            let Some(position) =
                rest.split_once('.').and_then(|(position, _)| position.parse::<u32>().ok())
            else {
                continue;
            };
            if last == Some(position) {
                continue;
            }
            last = Some(position);
            count += 1;
            let votes = context
                .icmap
                .get_as::<u32>(&format!("{PREFIX}{position}.quorum_votes"))
                .unwrap_or(1);
            expected = expected.wrapping_add(votes);
            if position == our_position {
                our_votes = votes;
            }
        }
        Some((count, our_votes, expected))
    }

    fn set_qdevice_can_operate(&mut self, context: &mut Context<'_>, on: bool) {
        self.qdevice_can_operate = on;
        context.set("runtime.votequorum.qdevice_can_operate", u8::from(on));
    }

    pub(super) fn set_expected_barrier(&mut self, context: &mut Context<'_>, votes: u32) {
        self.expected_barrier = votes;
        context.set("runtime.votequorum.ev_barrier", votes);
    }

    pub(super) fn set_tracking_barrier(&mut self, context: &mut Context<'_>, votes: u32) {
        self.tracking_barrier = votes;
        context.set("runtime.votequorum.ev_tracking_barrier", votes);
    }

    pub(super) fn set_wait_for_all_status(&mut self, context: &mut Context<'_>, on: bool) {
        self.wait_for_all_status = on;
        self.change_our_flags(|flags| flag::set(flags, flag::WAIT_FOR_ALL, on));
        context.set("runtime.votequorum.wait_for_all_status", u8::from(on));
    }
}
