//! What a side can do. Both sides have the same words, so that each line of the table is written
//! once. Times are nanoseconds.

/// What our threads, which share one connection, are compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rival {
    /// Threads of C that have a handle each.
    HandleEach,
    /// Threads of C that share a handle.
    OneHandle,
    /// One thread of ours that does it all.
    OneThread,
}

/// One client of each service, and what is measured with them.
pub(crate) trait Side {
    /// Repeats the call of a name and pauses before each. Says what each took.
    fn calls(&mut self, name: &str, pause: u64, nanos: &mut [u64]);

    /// Tracks one key of cmap this many times more.
    fn track(&mut self, trackers: u32);
    /// Sets the key that is tracked.
    fn set_tracked(&mut self, count: u32);
    /// Takes this many events of cmap.
    fn drain_cmap(&mut self, count: u32);

    /// Joins the group, for what follows.
    fn join(&mut self);
    fn leave(&mut self);
    /// Multicasts to itself, each message when the one before it has arrived. Says what each took.
    fn round_trips(&mut self, size: usize, nanos: &mut [u64]);
    /// Multicasts to itself as fast as the daemon takes it, and takes what arrives.
    fn stream(&mut self, count: u32, size: usize);
    /// As `stream`, but one thread sends and one takes.
    fn stream_of_two(&mut self, count: u32, size: usize);
    /// Multicasts without taking anything.
    fn send(&mut self, count: u32, size: usize);
    /// Takes this many messages of cpg.
    fn drain_cpg(&mut self, count: u32);

    /// Opens so many connections to cmap.
    fn open(&mut self, connections: u32);
    fn close(&mut self);
    /// Gets by so many threads at the same time, in equal shares. Says what each took.
    fn get_by_threads(&mut self, threads: u32, rival: Rival, nanos: &mut [u64]);
    /// One get over each connection in turn. Says what each took.
    fn get_in_turn(&mut self, nanos: &mut [u64]);
}
