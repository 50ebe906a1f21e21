//! CRC-32C (Castagnoli's polynomial, RFC 9260 appendix A).

/// The polynomial, its bits in reverse.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The checksum of `pieces`, one after the other. Bit by bit: a header is short, and there is one a connection.
pub(super) fn crc32c(pieces: &[&[u8]]) -> u32 {
    let bit = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
    let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| bit(sum));
    !pieces.iter().copied().flatten().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_3720_come_out() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        for (bytes, sum) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283), // what all catalogues of checksums have
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (&falling, 0x113f_db5c),
        ] {
            assert_eq!(crc32c(&[bytes]), sum, "{bytes:?}");
            let (first, second) = bytes.split_at(bytes.len() / 3);
            assert_eq!(crc32c(&[first, &[], second]), sum, "{bytes:?} in pieces");
        }
    }
}
