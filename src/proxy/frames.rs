//! Where the frames of a WebSocket begin and end (RFC 6455 §5.2), as far as it takes to say something between two of them.

/// The opcode of the frame that ends a connection.
const CLOSE: u8 = 0x8;
/// What says that a frame is masked, beside its length.
const MASKED: u8 = 0x80;

/// A Close frame with status 1001, *going away* (RFC 6455 §7.4.1), from a server.
pub(super) const GOING_AWAY: [u8; 4] = [0x80 | CLOSE, 2, 0x03, 0xe9];

/// The same from a client, whose frames are masked (RFC 6455 §5.3).
pub(super) fn going_away_masked(mask: [u8; 4]) -> [u8; 8] {
    let [first, length, high, low] = GOING_AWAY;
    [first, MASKED | length, mask[0], mask[1], mask[2], mask[3], high ^ mask[0], low ^ mask[1]]
}

/// How far one direction has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    at: At,
    has_closed: bool,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The first of a frame.
    #[default]
    Begin,
    /// The short length, of a Close frame or of another one.
    Length { is_close: bool },
    /// One of so many of the long length, which has begun like this; the mask follows it if there is one.
    LongLength { is_close: bool, left: u8, read: u64, mask: u8 },
    /// One of so many of the mask.
    Mask { is_close: bool, left: u8, payload: u64 },
    /// One of so many of the payload.
    Payload(u64),
}

impl Frames {
    /// These bytes are next.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let At::Payload(left) = self.at {
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.at = payload(left - part as u64);
                bytes = &bytes[part..];
            } else {
                self.at = self.head(*first);
                bytes = rest;
            }
        }
    }

    /// What follows this byte of a head.
    fn head(&mut self, byte: u8) -> At {
        match self.at {
            At::Begin => At::Length { is_close: byte & 0x0f == CLOSE },
            At::Length { is_close } => {
                let mask = if byte & MASKED == 0 { 0 } else { 4 };
                match byte & !MASKED {
                    126 => At::LongLength { is_close, left: 2, read: 0, mask },
                    127 => At::LongLength { is_close, left: 8, read: 0, mask },
                    length => self.behind_length(is_close, length.into(), mask),
                }
            }
            At::LongLength { is_close, left, read, mask } => {
                let read = read << 8 | u64::from(byte);
                match left {
                    1 => self.behind_length(is_close, read, mask),
                    _ => At::LongLength { is_close, left: left - 1, read, mask },
                }
            }
            At::Mask { is_close, left: 1, payload } => self.behind_length(is_close, payload, 0),
            At::Mask { is_close, left, payload } => At::Mask { is_close, left: left - 1, payload },
            At::Payload(_) => unreachable!("a payload is no head"),
        }
    }

    fn behind_length(&mut self, is_close: bool, length: u64, mask: u8) -> At {
        if mask > 0 {
            return At::Mask { is_close, left: mask, payload: length };
        }
        self.has_closed |= is_close;
        payload(length)
    }

    /// Bytes that are certainly missing until a frame ends; none between two.
    pub(super) fn missing(&self) -> u64 {
        match self.at {
            At::Begin => 0,
            At::Length { .. } => 1,
            At::LongLength { left, mask, .. } => u64::from(left + mask),
            At::Mask { left, payload, .. } => payload.saturating_add(left.into()),
            At::Payload(left) => left,
        }
    }

    /// Whether a Close frame has come: no other frame follows it (RFC 6455 §5.5.1).
    pub(super) fn has_closed(&self) -> bool {
        self.has_closed
    }
}

fn payload(left: u64) -> At {
    if left == 0 { At::Begin } else { At::Payload(left) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(opcode: u8, payload: &[u8], is_masked: bool) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let mask = if is_masked { MASKED } else { 0 };
        let length = u64::try_from(payload.len()).unwrap();
        match length {
            0..126 => frame.push(mask | u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(&[1, 2, 3, 4][..if is_masked { 4 } else { 0 }]);
        frame.extend(payload);
        frame
    }

    proptest! {
        #[test]
        fn the_end_of_a_frame_is_found_however_it_is_cut(
            lengths in prop::collection::vec(prop_oneof![0..4_usize, 120..130_usize, 65_530..65_540_usize], 1..5),
            is_masked: bool,
            cut in 1..3000_usize,
        ) {
            let mut frames = Frames::default();
            for length in lengths {
                // A payload that looks like Close frames says nothing.
                for piece in frame(2, &vec![0x88; length], is_masked).chunks(cut) {
                    prop_assert!(!frames.has_closed());
                    frames.pass(piece);
                }
                prop_assert_eq!(frames.missing(), 0);
            }
            frames.pass(&frame(CLOSE, b"\x03\xe8", is_masked));
            prop_assert!(frames.has_closed());
        }

        #[test]
        fn whoever_waits_for_what_is_missing_waits_for_no_byte_too_many(length in 0..70_000_usize, is_masked: bool) {
            let frame = frame(1, &vec![0; length], is_masked);
            let (mut frames, mut at) = (Frames::default(), 1);
            frames.pass(&frame[..1]);
            while frames.missing() > 0 {
                let next = at + usize::try_from(frames.missing()).unwrap();
                frames.pass(&frame[at..next]);
                at = next;
            }
            prop_assert_eq!(at, frame.len());
        }
    }

    #[test]
    fn what_is_said_to_either_side_is_a_close_frame() {
        for said in [&GOING_AWAY[..], &going_away_masked([7, 8, 9, 10])] {
            let mut frames = Frames::default();
            frames.pass(said);
            assert_eq!((frames.missing(), frames.has_closed()), (0, true), "{said:?}");
        }
        let masked = going_away_masked([0xff, 0, 1, 2]);
        assert_eq!([masked[6] ^ 0xff, masked[7]], [0x03, 0xe9]);
    }
}
