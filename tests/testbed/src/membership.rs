//! The membership as a node sees it.

/// What corosync-quorumtool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Whether the partition has quorum.
    pub quorate: bool,
    /// The id of the ring, as text.
    pub ring: String,
    /// Node ids in the order shown.
    pub members: Vec<u32>,
}

impl Membership {
    /// Reads what `corosync-quorumtool -s` of any version prints.
    pub(super) fn parse(text: &str) -> Option<Membership> {
        let field =
            |name: &str| text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
        // Lines of the table begin with a node id and the votes; a quorum device has the id 0.
        let members = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let id = words.next()?.parse().ok()?;
            words.next().filter(|_| id != 0).map(|_| id)
        });
        Some(Membership {
            quorate: field("Quorate:")? == "Yes",
            ring: field("Ring ID:")?.to_owned(),
            members: members.collect(),
        })
    }
}
