use proptest::prelude::*;

use super::*;

fn client(source: &str, destination: &str) -> Stated {
    Stated::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// A header of version 2 with these bytes after the signature.
fn v2(command: u8, family: u8, length: u16, said: &[u8]) -> Vec<u8> {
    [V2_BEGIN, &[command, family], &length.to_be_bytes(), said].concat()
}

#[test]
fn a_line_says_whom_a_connection_is_for() {
    for (line, stated) in [
        ("PROXY TCP4 192.0.2.7 192.0.2.1 56324 443", client("192.0.2.7:56324", "192.0.2.1:443")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
            client("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP6 2001:db8::7 ::1 0 443", client("[2001:db8::7]:0", "[::1]:443")),
        ("PROXY UNKNOWN", Stated::Unknown),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", Stated::Unknown),
    ] {
        assert_eq!(read(format!("{line}\r\n").as_bytes()), Ok(Progress::Whole(stated)), "{line}");
    }
}

#[test]
fn a_line_that_is_not_to_the_letter_is_refused() {
    for line in [
        "PROXY",
        "PROXY ",
        "PROXY TCP5 192.0.2.7 192.0.2.1 1 2",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 2 ",
        "PROXY TCP4  192.0.2.7 192.0.2.1 1 2",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 65536",
        "PROXY TCP4 192.0.2.7 192.0.2.1 +1 2",
        "PROXY TCP4 192.0.2.7 192.0.2.1 01 2",
        "PROXY TCP4 192.0.2.07 192.0.2.1 1 2",
        "PROXY TCP4 ::1 ::1 1 2",
        "PROXY TCP6 192.0.2.7 192.0.2.1 1 2",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2",
        "PROXY UNKNOWNX",
        "proxy TCP4 192.0.2.7 192.0.2.1 1 2",
        "GET / HTTP/1.1",
    ] {
        assert!(read(format!("{line}\r\n").as_bytes()).is_err(), "{line:?}");
    }
    assert!(read(b"PROXY UNKNOWN\n").is_err());
    assert!(read(format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LONGEST)).as_bytes()).is_err());
    assert!(read(b"PROXY UNKNOWN\r\nGET").is_err());
}

#[test]
fn a_binary_header_says_whom_a_connection_is_for() {
    let four = [192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];
    let stated = client("192.0.2.7:56324", "192.0.2.1:443");
    assert_eq!(read(&v2(0x21, 0x11, 12, &four)), Ok(Progress::Whole(stated)));
    let with_extensions = [&four[..], &[0x04, 0, 3, 0, 0xaa, 0xbb]].concat();
    assert_eq!(read(&v2(0x21, 0x11, 18, &with_extensions)), Ok(Progress::Whole(stated)));
    assert_eq!(read(&v2(0x20, 0x11, 12, &four)), Ok(Progress::Whole(Stated::Local)));
    assert_eq!(read(&v2(0x20, 0x00, 0, &[])), Ok(Progress::Whole(Stated::Local)));
    assert_eq!(read(&v2(0x21, 0x00, 3, b"abc")), Ok(Progress::Whole(Stated::Unknown)));
    assert_eq!(read(&v2(0x21, 0x31, 216, &[b'/'; 216])), Ok(Progress::Whole(Stated::Unknown)));
}

#[test]
fn a_binary_header_that_is_not_to_the_letter_is_refused() {
    for (header, why) in [
        (v2(0x11, 0x11, 12, &[0; 12]), "another version"),
        (v2(0x22, 0x11, 12, &[0; 12]), "another command"),
        (v2(0x21, 0x12, 12, &[0; 12]), "datagrams"),
        (v2(0x21, 0x41, 12, &[0; 12]), "an unknown family"),
        (v2(0x21, 0x11, 11, &[0; 11]), "an address cut short"),
        (v2(0x21, 0x21, 35, &[0; 35]), "an address cut short"),
        (v2(0x21, 0x31, 215, &[0; 215]), "an address cut short"),
        (v2(0x21, 0x11, 65535, &[]), "64 KiB, told by its first bytes"),
    ] {
        assert!(read(&header).is_err(), "{why}");
    }
    assert!(read(b"\r\n\r\n\0\r\nQUIT\r").is_err());
}

/// What a balancer of AWS sends: an IPv4 client, a checksum, its own extension, and padding.
fn of_aws() -> Vec<u8> {
    let addresses = [172, 31, 7, 113, 172, 31, 10, 31, 0xc8, 0xf2, 0, 80];
    let checksum = [CHECKSUM, 0, 4, 0xe8, 0xd6, 0x89, 0x2d];
    let endpoint = [&[0xea, 0, 23, 1][..], b"vpce-08d2bf15fac5001c9"].concat();
    let padding = [&[0x04, 0, 36][..], &[0; 36]].concat();
    v2(0x21, 0x11, 84, &[&addresses[..], &checksum, &endpoint, &padding].concat())
}

#[test]
fn a_checksum_has_to_be_right() {
    let whole = of_aws();
    let stated = client("172.31.7.113:51442", "172.31.10.31:80");
    assert_eq!(read(&whole), Ok(Progress::Whole(stated)));
    let kind = V2_START + 12;
    for bit in 0..8 * whole.len() {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let is_checked = bit / 8 != kind && changed[12] != 0x20; // else it is another extension, or of no interest
        let is_taken = matches!(read(&changed), Ok(Progress::Whole(_)));
        assert_eq!(is_taken, !is_checked, "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn extensions_have_to_fit_the_header() {
    for (extensions, is_whole) in [
        (&[][..], true),
        (&[0x04, 0, 0], true),
        (&[0x04, 0, 2, 0, 0, 0xea, 0, 1, 7], true),
        (&[0x04], false),
        (&[0x04, 0], false),
        (&[0x04, 0, 1], false),
        (&[0x04, 0xff, 0xff, 0], false),
        (&[0x04, 0, 0, 0x04], false),
        (&[CHECKSUM, 0, 0], false),
        (&[CHECKSUM, 0, 3, 1, 2, 3], false),
        (&[CHECKSUM, 0, 5, 1, 2, 3, 4, 5], false),
        (&[CHECKSUM, 0, 4, 0, 0, 0, 0], false),
    ] {
        let addresses = [0; 12];
        let length = u16::try_from(12 + extensions.len()).unwrap();
        let header = v2(0x21, 0x11, length, &[&addresses, extensions].concat());
        assert_eq!(read(&header).is_ok(), is_whole, "{extensions:?}");
        let of_the_proxy = v2(0x20, 0x11, length, &[&addresses, extensions].concat());
        assert_eq!(read(&of_the_proxy), Ok(Progress::Whole(Stated::Local)), "what stands in it has to be discarded");
    }
}

#[test]
fn addresses_of_two_families_are_written_as_ipv6() {
    let stated = client("192.0.2.7:1", "[2001:db8::1]:2");
    let text = String::from_utf8(write(Version::V1, stated)).unwrap();
    assert_eq!(text, "PROXY TCP6 ::ffff:c000:207 2001:db8::1 1 2\r\n");
    assert_eq!(
        write(Version::V1, client("[::ffff:192.0.2.7]:1", "192.0.2.1:2")),
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n"
    );
    assert_eq!(write(Version::V1, Stated::Local), b"PROXY UNKNOWN\r\n");
}

fn any_client() -> impl Strategy<Value = Stated> {
    let four = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let six = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    (prop_oneof![four, six], any::<u16>(), any::<u16>()).prop_map(|((source, destination), from, to)| Stated::Client {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_wherever_it_is_cut(
        stated in any_client(),
        version in prop_oneof![Just(Version::V1), Just(Version::V2)],
    ) {
        let header = write(version, stated);
        for cut in 0..header.len() {
            let Ok(Progress::Needs(missing)) = read(&header[..cut]) else { panic!("cut at {cut}") };
            prop_assert!((1..=header.len() - cut).contains(&missing), "{} are missing at {}", missing, cut);
        }
        prop_assert_eq!(read(&header), Ok(Progress::Whole(stated)));
        prop_assert!(read(&[&header[..], b"G"].concat()).is_err());
    }

    #[test]
    fn noise_never_panics_and_what_is_missing_is_little(
        begin in prop_oneof![Just(&b""[..]), Just(V1_BEGIN), Just(V2_BEGIN), Just(&b"PROXY TCP4 "[..])],
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [begin, &noise].concat();
        if let Ok(Progress::Needs(missing)) = read(&bytes) {
            prop_assert!(missing > 0 && bytes.len() + missing <= V2_START + V2_MOST);
        }
    }
}
