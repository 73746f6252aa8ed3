use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = GroupName> {
    prop::collection::vec(any::<u8>(), 0..=MAX_GROUP_NAME)
        .prop_map(|name| GroupName::new(name).unwrap())
}

fn addresses() -> impl Strategy<Value = Vec<Address>> {
    let address = any::<(u32, u32, u32)>().prop_map(|(node_id, pid, reason)| Address {
        node_id: NodeId(node_id),
        pid,
        reason: Reason(reason),
    });
    prop::collection::vec(address, 0..20)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn requests() -> impl Strategy<Value = AnyRequest> {
    prop_oneof![
        (name(), any::<u32>(), any::<u32>())
            .prop_map(|(group_name, pid, flags)| AnyRequest::Join(Join { group_name, pid, flags })),
        (name(), any::<u32>())
            .prop_map(|(group_name, pid)| AnyRequest::Leave(Leave { group_name, pid })),
        (any::<u32>(), payload()).prop_map(|(guarantee, message)| {
            AnyRequest::Mcast(Mcast { guarantee: Guarantee(guarantee), message })
        }),
        (any::<u32>(), any::<u32>(), any::<u32>(), payload()).prop_map(
            |(guarantee, msglen, kind, message)| {
                AnyRequest::PartialMcast(PartialMcast {
                    guarantee: Guarantee(guarantee),
                    msglen,
                    fragment_type: FragmentType(kind),
                    message,
                })
            }
        ),
        (name(), any::<u32>()).prop_map(|(group_name, iteration_type)| {
            AnyRequest::IterationInitialize(IterationInitialize { group_name, iteration_type })
        }),
    ]
}

fn responses() -> impl Strategy<Value = AnyResponse> {
    prop_oneof![
        addresses()
            .prop_map(|member_list| AnyResponse::MembershipReply(MembershipReply { member_list })),
        (name(), any::<u32>(), any::<u32>()).prop_map(|(group, nodeid, pid)| {
            let description = Description { group, nodeid: NodeId(nodeid), pid };
            AnyResponse::IterationNextReply(IterationNextReply { description })
        }),
    ]
}

fn events() -> impl Strategy<Value = AnyEvent> {
    prop_oneof![
        (name(), addresses(), addresses(), addresses()).prop_map(
            |(group_name, member_list, left_list, joined_list)| {
                AnyEvent::ConfchgCallback(ConfchgCallback {
                    group_name,
                    member_list,
                    left_list,
                    joined_list,
                })
            }
        ),
        (name(), any::<u32>(), any::<u32>(), payload()).prop_map(
            |(group_name, nodeid, pid, message)| {
                AnyEvent::DeliverCallback(DeliverCallback {
                    group_name,
                    nodeid: NodeId(nodeid),
                    pid,
                    message,
                })
            }
        ),
        (any::<u32>(), any::<u64>(), prop::collection::vec(any::<u32>().prop_map(NodeId), 0..20))
            .prop_map(|(node_id, seq, member_list)| {
                let ring_id = RingId { node_id: NodeId(node_id), seq };
                AnyEvent::TotemConfchgCallback(TotemConfchgCallback { ring_id, member_list })
            }),
        (name(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), payload()).prop_map(
            |(group_name, msglen, nodeid, pid, kind, message)| {
                AnyEvent::PartialDeliverCallback(PartialDeliverCallback {
                    group_name,
                    msglen,
                    nodeid: NodeId(nodeid),
                    pid,
                    fragment_type: FragmentType(kind),
                    message,
                })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_as_they_went(message in requests()) {
        prop_assert_eq!(AnyRequest::decode(&message.encode().unwrap()).unwrap(), message);
    }

    #[test]
    fn responses_come_back_as_they_went(message in responses()) {
        prop_assert_eq!(AnyResponse::decode(&message.encode().unwrap()).unwrap(), message);
    }

    #[test]
    fn events_come_back_as_they_went_copied_or_shared(message in events()) {
        let bytes = Bytes::from(message.encode().unwrap());
        // Equality of addresses ignores the reasons.
        let expected = format!("{message:?}");
        prop_assert_eq!(format!("{:?}", AnyEvent::decode(&bytes).unwrap()), expected.clone());
        prop_assert_eq!(format!("{:?}", AnyEvent::decode_shared(&bytes).unwrap()), expected);
    }
}

#[test]
fn a_multicast_sent_in_two_parts_is_the_message() {
    let message = Bytes::from_static(b"payload");
    let whole = Mcast { guarantee: Guarantee::AGREED, message: message.clone() }.encode().unwrap();
    let head = Mcast::encode_head(Guarantee::AGREED, message.len()).unwrap();
    assert_eq!([&head[..], &message].concat(), whole);
    let fragment = PartialMcast {
        guarantee: Guarantee::FIFO,
        msglen: 9,
        fragment_type: FragmentType::LAST,
        message,
    };
    let head = PartialMcast::encode_head(Guarantee::FIFO, 9, FragmentType::LAST, 7).unwrap();
    assert_eq!([&head[..], &fragment.message].concat(), fragment.encode().unwrap());
}

#[test]
fn a_delivered_payload_shares_the_memory_it_came_in() {
    let message = Bytes::from_static(b"payload");
    let event = DeliverCallback {
        group_name: GroupName::new("g").unwrap(),
        nodeid: NodeId(1),
        pid: 2,
        message,
    };
    let bytes = Bytes::from(event.encode().unwrap());
    let Ok(AnyEvent::DeliverCallback(read)) = AnyEvent::decode_shared(&bytes) else {
        panic!("{event:?}")
    };
    assert!(bytes.as_ptr_range().contains(&read.message.as_ptr()));
}

#[test]
fn a_name_longer_than_its_room_is_refused() {
    let mut bytes = Leave { group_name: GroupName::new("g").unwrap(), pid: 1 }.encode().unwrap();
    bytes[16..20].copy_from_slice(&129u32.to_ne_bytes());
    let error = WireError::TooLarge {
        message: "req_lib_cpg_leave",
        field: "group_name",
        offset: 16,
        value: 129,
        limit: 128,
    };
    assert_eq!(Leave::decode(&bytes), Err(error));
}
