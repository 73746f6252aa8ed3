//! What a hook is told of quorum.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use corosync_ipc::Endpoint;
use corosync_ipc::snapshot::{Fault, Options, Snapshot};
use serde_json::{Value as Json, json};

use super::document;
use crate::context::Context;
use crate::failure::Failure;
use crate::hook::{self, Exec, Hook, Teller};
use crate::watch::Watch;

/// The hook of a watch.
pub(crate) struct Hooks {
    hook: Hook,
    quorum: QuorumHook,
}

impl Hooks {
    /// `None` where nothing is to be run.
    pub(crate) fn start(
        exec: Exec,
        watch: &mut Watch,
        context: &Context,
    ) -> Result<Option<Self>, Failure> {
        let Some(hook) = Hook::new(exec) else { return Ok(None) };
        watch.put_hook_before_output();
        // It has its time to end.
        watch.end_at_signals(hook::GRACE + Duration::from_secs(2))?;
        let quorum = QuorumHook {
            teller: hook.teller(),
            endpoint: context.endpoint.clone(),
            told: Arc::default(),
        };
        Ok(Some(Self { hook, quorum }))
    }

    /// What tells of quorum.
    pub(crate) fn quorum(&self) -> QuorumHook {
        self.quorum.clone()
    }

    /// What tells of anything.
    pub(crate) fn teller(&self) -> Teller {
        self.hook.teller()
    }

    /// Ends with the watch, which has this result.
    pub(crate) fn end(hooks: Option<Self>, result: Result<(), Failure>) -> Result<(), Failure> {
        if let Some(Self { hook, quorum }) = hooks {
            // The daemon is lost, by whichever connection was the first to tell.
            if let (Err(Failure::Failed { text, cs_error, .. }), true) =
                (&result, quorum.has_told())
            {
                quorum.lost(json!({ "error": text, "cs_error": cs_error }));
            }
            hook.end(&result);
        }
        result
    }
}

/// Tells a hook whether this node is quorate.
#[derive(Clone)]
pub(crate) struct QuorumHook {
    teller: Teller,
    endpoint: Endpoint,
    /// What it was told last: `Some(None)` that nobody knows.
    told: Arc<Mutex<Option<Option<bool>>>>,
}

impl QuorumHook {
    /// This node is quorate, or not.
    pub(crate) fn tell(&self, quorate: bool) {
        self.tell_change(Some(quorate), Json::Null);
    }

    /// Nobody knows, because of this error.
    pub(crate) fn lost(&self, why: Json) {
        self.tell_change(None, why);
    }

    fn tell_change(&self, quorate: Option<bool>, why: Json) {
        if self.told().replace(quorate) != Some(quorate) {
            let endpoint = self.endpoint.clone();
            self.teller.tell("quorum", move || state(&endpoint, quorate, why));
        }
    }

    fn has_told(&self) -> bool {
        self.told().is_some()
    }

    fn told(&self) -> MutexGuard<'_, Option<Option<bool>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The document of `quorum status`, as an event. What the daemon told stands in it when it answers
/// no more.
fn state(endpoint: &Endpoint, quorate: Option<bool>, mut why: Json) -> Json {
    let options = Options::new().links(false).services(false);
    let snapshot = quorate.map(|_| Snapshot::take_with(endpoint, options));
    let mut document = match snapshot {
        Some(Ok(snapshot)) if snapshot.quorate.is_some() => document(&snapshot),
        other => {
            if let Some(Err(error)) = other {
                why = json!(Fault::from(error));
            }
            let mut document = document(&Snapshot::default());
            document["quorate"] = json!(quorate);
            document["errors"] = json!({ "quorum": why });
            document
        }
    };
    document["event"] = json!("quorum");
    document
}
