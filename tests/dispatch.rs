//! Events and shared clients against a real corosync.

mod bodies;
mod harness;

use bodies::{against_corosync, dispatch as body, sharing};
use harness::shared_one;

against_corosync! { shared_one().node(1);
    body::nothing_waits as nothing_waits;
    body::events_wait as events_wait;
    body::a_handler_may_call_its_client as a_handler_may_call_its_client;
    body::a_handler_may_finalize as a_handler_may_finalize;
    body::finalizing_wakes_who_waits as finalizing_wakes_who_waits;
    body::the_descriptor_is_readable_while_events_wait as the_descriptor_is_readable_while_events_wait;
    body::a_poll_loop_sees_every_event as a_poll_loop_sees_every_event;
    body::a_small_ring_gets_many_events_in_order as a_small_ring_gets_many_events_in_order;
    sharing::threads_share_a_client_while_one_dispatches as threads_share_a_client_while_one_dispatches;
    sharing::a_small_stack_is_enough as a_small_stack_is_enough;
}
