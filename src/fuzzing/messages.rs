//! The codecs of the services.

use crate::codec::Kind;
use crate::wire::{Service, cfg, cmap, cpg, evs, inspect, quorum, votequorum, with_any_message};

/// The kinds of messages, in the order of [`message`]'s first byte.
pub const KINDS: [Kind; 3] = [Kind::Request, Kind::Response, Kind::Event];

/// Returns the first byte for [`message`] that chooses a service and a kind.
pub fn choice(service: Service, kind: Kind) -> u8 {
    (service as u8) * 3 + kind as u8
}

/// Decodes bytes as a message of any service. Checks that a decoded message encodes, that the
/// result decodes to the same message, and that an inspection finds the same.
///
/// The first byte chooses service and kind. The rest is the message.
pub fn message(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let (service, kind) = (usize::from(choice / 3) % Service::ALL.len(), usize::from(choice % 3));
    let (service, kind) = (Service::ALL[service], KINDS[kind]);
    macro_rules! round_trip {
        ($service:ident $any:ident) => {
            match $service::$any::decode(bytes) {
                Ok(message) => {
                    let encoded = message.encode().expect("a decoded message encodes");
                    let again = $service::$any::decode_shared(&encoded.into())
                        .expect("an encoded message decodes");
                    // Compared as text, since a NaN does not equal itself.
                    assert_eq!(format!("{again:?}"), format!("{message:?}"));
                    true
                }
                Err(_) => false,
            }
        };
    }
    let decodes = with_any_message!(service, kind, round_trip);
    let found = inspect(service, kind, bytes);
    assert!(!decodes || found.error.is_none(), "{found:?}");
    assert!(found.end <= bytes.len(), "{found:?}");
    for (before, field) in found.fields.iter().zip(found.fields.iter().skip(1)) {
        assert!(before.offset + before.size <= field.offset, "{found:?}");
    }
    if (service, kind) == (Service::Votequorum, Kind::Event) {
        assert_eq!(votequorum::decode_event(bytes).is_ok(), found.error.is_none(), "{found:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;
    use crate::wire::tables::vectors;

    /// A damaged vector behind the byte by which [`message`] chooses
    /// the service and kind.
    fn damaged_vector() -> impl Strategy<Value = Vec<u8>> {
        let all = Service::ALL.into_iter().flat_map(|service| {
            vectors(service.name())
                .map(move |(kind, bytes)| [&[choice(service, kind)], bytes.as_slice()].concat())
        });
        let word = prop_oneof![0..400u32, any::<u32>()];
        let damages = vec((any::<Index>(), word), 0..4);
        (select(all.collect::<Vec<_>>()), damages, any::<Index>(), vec(any::<u8>(), 0..40))
            .prop_map(|(mut bytes, damages, end, more)| {
                for (index, word) in damages {
                    // At a word behind the first byte and the id.
                    let start = 5 + index.index(bytes.len() - 5) / 4 * 4;
                    let word = word.to_ne_bytes();
                    let length = word.len().min(bytes.len() - start);
                    bytes[start..start + length].copy_from_slice(&word[..length]);
                }
                if more.len() % 2 == 0 {
                    bytes.extend(more);
                } else {
                    bytes.truncate(1 + end.index(bytes.len()));
                }
                bytes
            })
    }

    /// Miri runs it, as it needs no tables.
    #[test]
    fn captured_messages_come_back_as_they_went() {
        for service in Service::ALL {
            for (kind, bytes) in vectors(service.name()) {
                message(&[&[choice(service, kind)], bytes.as_slice()].concat());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in damaged_vector()) {
            message(&bytes);
        }
    }
}
