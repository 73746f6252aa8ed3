//! How the daemon fares meanwhile: what it counts of its own delays.

use corosync_ipc::cmap::{self, Map, Options};
use corosync_ipc::{Endpoint, Error};
use serde_json::{Value, json};

use crate::report::median;

/// Reads the daemon's statistics between the blocks.
pub(crate) struct Health {
    statistics: cmap::Client,
    /// When it was late for the last time, in its own milliseconds.
    last: u64,
}

/// What the daemon counted during a block.
pub(crate) struct Sign {
    /// How often its main loop was late, by `stats.schedmiss`.
    late: usize,
    /// The mean time to the token, by `stats.srp.mtt_rx_token`, in milliseconds.
    token: Option<u32>,
}

impl Health {
    pub(crate) fn watch() -> Result<Health, Error> {
        let options = Options::new().map(Map::Stats);
        let statistics = cmap::Client::connect_with(&Endpoint::new(), options)?;
        let mut health = Health { statistics, last: 0 };
        health.sign()?;
        Ok(health)
    }

    /// What happened since it was last asked. The daemon keeps its ten newest delays.
    pub(crate) fn sign(&mut self) -> Result<Sign, Error> {
        let mut late = Vec::new();
        for entry in self.statistics.iter("stats.schedmiss.")? {
            let key = entry?.key;
            if key.ends_with(".timestamp") {
                late.extend(self.statistics.get_as::<u64>(&key)?);
            }
        }
        late.retain(|time| *time > self.last);
        self.last = late.iter().copied().max().unwrap_or(self.last);
        let token = self.statistics.get_as("stats.srp.mtt_rx_token")?;
        Ok(Sign { late: late.len(), token })
    }
}

/// What the daemon counted during the blocks of a side.
#[derive(Default)]
pub(crate) struct Signs(Vec<Sign>);

impl Signs {
    pub(crate) fn push(&mut self, sign: Sign) {
        self.0.push(sign);
    }

    pub(crate) fn late(&self) -> usize {
        self.0.iter().map(|sign| sign.late).sum()
    }

    /// The median and the greatest of the mean times to the token, in milliseconds.
    pub(crate) fn token(&self) -> Option<(f64, f64)> {
        let times: Vec<f64> = self.0.iter().filter_map(|sign| sign.token.map(f64::from)).collect();
        let most = times.iter().copied().max_by(f64::total_cmp)?;
        Some((median(times), most))
    }

    pub(crate) fn json(&self) -> Value {
        let token = self.token();
        json!({
            "late": self.late(),
            "token_milliseconds": token.map(|(median, _)| median),
            "token_milliseconds_at_most": token.map(|(_, most)| most),
        })
    }
}
