//! What NEW fails and may be sent again, OLD answers: the user sees OLD's answer, the guard sees the failure.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, SystemTime};

use tidegate::metrics::tally::{Mark, Position};
use tidegate::metrics::{Class, Failure, Seat, Why};
use tidegate::policy::decision::{Reason, Side};
use tidegate::policy::drain::Drain;
use tidegate::policy::guard::Counted;
use tidegate::policy::standing::{Maintenance, Standing};
use tidegate::snapshot::Overlay;

use crate::support::backend::{Connection, Request, ok};
use crate::support::plane::{maintenance, somebody};
use crate::support::{Answer, Backend, Client, Plane, Tidegate, dead_address, eventually};

const OOPS: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops";
const BY_BUCKET: Why = Why::Decided(Reason::Bucket);

/// Everybody on NEW, and a shield with these lines.
fn config(old: &str, new: &str, shield: &str, more: &str) -> String {
    let backend = |url| format!("{{ endpoints: ['{url}'], timeouts: {{ connect: 20s, response: 2s }} }}");
    format!(
        "backends:\n  old: {}\n  new: {}\nrollouts:\n  r:\n    old: old\n    new: new\n    percent: 100\n    \
         key: header:x-user-id\n    shield: {{ {shield} }}\n{more}routes: [{{ rollout: r }}]\n",
        backend(old),
        backend(new)
    )
}

fn shielded(old: &Backend, new: &Backend) -> Plane {
    Plane::start(&config(&old.url(), &new.url(), "", ""), &[])
}

/// A NEW that does this after having read a request.
fn after_a_request(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |connection| {
        while connection.read_request().is_some() {
            script(connection);
        }
    })
}

fn that_fails() -> Backend {
    Backend::saying(OOPS)
}

fn that_resets() -> Backend {
    Backend::scripted(|connection| {
        if connection.read_request().is_some() {
            connection.reset();
        }
    })
}

fn that_is_silent() -> Backend {
    after_a_request(|_| {})
}

/// A backend that answers a request with `answer` once it is told to.
fn patient(answer: impl Into<Vec<u8>>) -> (Backend, mpsc::Sender<()>) {
    let (go, may_go) = mpsc::channel::<()>();
    let (may_go, answer) = (Mutex::new(may_go), answer.into());
    let backend = Backend::answering(move |_| {
        let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        answer.clone()
    });
    (backend, go)
}

/// A request by user 7, with these further header lines.
fn request(method: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    [format!("{method} /pay?x=1 HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n{lines}\r\n").as_bytes(), body].concat()
}

fn with_length(method: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    request(method, &[lines, &[&length]].concat(), body)
}

fn chunked(method: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let pieces =
        body.chunks(1000).flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    let body = pieces.chain(*b"0\r\n\r\n").collect::<Vec<u8>>();
    request(method, &[lines, &["transfer-encoding: chunked"]].concat(), &body)
}

fn get() -> Vec<u8> {
    request("GET", &[], b"")
}

fn tell(plane: &Plane, bytes: impl AsRef<[u8]>) -> Answer {
    plane.client().send(bytes).answer()
}

/// What the guard is told of NEW.
fn guard_sees(plane: &Plane) -> (Counted, Vec<Mark>) {
    let meters = plane.meters();
    let (mut sum, mut marks) = (Counted::default(), Vec::new());
    for tally in meters.tallies().all(Side::New) {
        let (counted, _) = tally.failures().read(&mut Position::default(), &mut marks);
        sum = Counted { requests: sum.requests + counted.requests, bad: sum.bad + counted.bad };
    }
    (sum, marks)
}

/// Waits until nothing runs, and gives how many requests of NEW ended as `class`.
fn ended_as(plane: &Plane, class: Class) -> u64 {
    let meters = plane.meters();
    let inflight = || Side::ALL.map(|side| meters.side(side).inflight() + meters.running(Seat::of(side, false)));
    eventually("nothing runs", || inflight() == [0, 0]);
    assert_eq!(meters.side(Side::Old).total(), 0, "nothing is decided twice");
    meters.side(Side::New).requests(BY_BUCKET, class)
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.header(name).unwrap_or_else(|| panic!("no {name}: {request:?}"))
}

// -- what is sent again

#[test]
fn a_get_that_new_fails_is_answered_by_old() {
    let in_a_header = "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n";
    let switching = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    for (new, failure, class) in [
        (that_fails(), Failure::Status, Class::ServerError),
        (Backend::saying(in_a_header), Failure::Grpc, Class::Success),
        (that_resets(), Failure::Reset, Class::Error),
        (that_is_silent(), Failure::ResponseTimeout, Class::Error),
        (Backend::saying("nonsense\r\n\r\n"), Failure::Malformed, Class::Error),
        (Backend::saying(switching), Failure::Malformed, Class::Error),
    ] {
        let old = Backend::named("old");
        let plane = shielded(&old, &new);
        let mut client = plane.client();
        let answer = client.send(get()).answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "old"), "{failure:?}");
        assert_eq!((new.requests().len(), old.requests().len()), (1, 1), "{failure:?}");
        assert_eq!(ended_as(&plane, class), 1, "{failure:?}");
        let meters = plane.meters();
        assert_eq!((meters.side(Side::New).failures(failure), meters.shielded()), (1, 1), "{failure:?}");
        let (counted, marks) = guard_sees(&plane);
        assert_eq!(counted, Counted { requests: 1, bad: 1 }, "{failure:?}");
        assert!(marks[0].is_shielded && marks[0].bucket.get() == 700, "{marks:?}");
        eventually("there is a line", || plane.log().len() == 1);
        let line = &plane.log()[0];
        assert_eq!((&line["status"], &line["side"], &line["shielded"]), (&200.into(), &"new".into(), &true.into()));
        assert_eq!(line["class"], class.as_str(), "{line}");
    }
}

#[test]
fn nothing_is_sent_again_without_a_shield() {
    for shield in ["", "  shield: { enabled: false }\n"] {
        let (old, new) = (Backend::named("old"), that_fails());
        let plane = Plane::start(&crate::support::proxy::split(&old, &new, "100", shield), &[]);
        assert_eq!(tell(&plane, get()).status, 500);
        assert_eq!((old.requests().len(), plane.meters().shielded()), (0, 0));
    }
}

#[test]
fn a_shield_needs_no_guard_to_know_a_failure() {
    let (old, new) = (Backend::named("old"), that_fails());
    let guard = "    guard: { enabled: false, failures: { statuses: [404, 500] } }\n";
    let plane = Plane::start(&config(&old.url(), &new.url(), "", guard), &[]);
    assert_eq!(tell(&plane, get()).text(), "old");
    let reported = Backend::saying("HTTP/1.1 200 OK\r\nx-outcome: failure\r\ncontent-length: 2\r\n\r\nok");
    let guard = "    guard: { failures: { header: x-outcome } }\n";
    let plane = Plane::start(&config(&old.url(), &reported.url(), "", guard), &[]);
    assert_eq!(tell(&plane, get()).text(), "old");
    assert_eq!(plane.meters().side(Side::New).failures(Failure::Reported), 1);
}

#[test]
fn old_is_told_who_asks_and_why() {
    let (old, new) = (Backend::named("old"), that_fails());
    let more = "    expose_side: true\n    on_missing: cookie\n";
    let plane = Plane::start(&config(&old.url(), &new.url(), "", more), &[]);
    let answer = tell(&plane, "GET /a?b=c HTTP/1.1\r\nhost: service\r\naccept: x/y\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.header("x-tidegate-side")), ("old", Some("old")));
    assert!(answer.header("set-cookie").is_some(), "an anonymous user is known from the first answer on");
    let (first, second) = (&new.requests()[0], &old.requests()[0]);
    assert_eq!((&second.method, &second.target), (&first.method, &first.target));
    for (name, at_new, at_old) in [
        ("x-tidegate-side", "new", "old"),
        ("x-tidegate-reason", "missing_key", "shield"),
        ("x-tidegate-rollout", "r", "r"),
    ] {
        assert_eq!((header(first, name), header(second, name)), (at_new, at_old), "{name}");
    }
    for name in ["host", "x-request-id", "x-forwarded-for", "x-forwarded-host", "accept"] {
        assert_eq!(header(first, name), header(second, name), "{name}");
    }
}

#[test]
fn a_client_that_names_no_host_reaches_each_backend_under_its_own() {
    let (old, new) = (Backend::named("old"), that_fails());
    let plane = shielded(&old, &new);
    assert_eq!(tell(&plane, "GET / HTTP/1.0\r\nx-user-id: 7\r\n\r\n").text(), "old");
    assert_eq!(header(&new.requests()[0], "host"), new.address.to_string());
    assert_eq!(header(&old.requests()[0], "host"), old.address.to_string());
}

#[test]
fn a_head_is_answered_by_old() {
    let old = Backend::saying("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n");
    let new = Backend::saying("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 9\r\n\r\n");
    let plane = shielded(&old, &new);
    let mut client = plane.client();
    for _ in 0..2 {
        let answer = client.send(request("HEAD", &[], b"")).answer_to_head();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    }
}

#[test]
fn what_reached_nobody_is_sent_to_old_once_whatever_it_is() {
    let dead = format!("http://{}", dead_address());
    for post in [with_length("POST", &[], b"five!"), chunked("POST", &[], b"five!")] {
        let old = Backend::answering(|request| ok(&[], &request.body));
        let plane = Plane::start(&config(&old.url(), &dead, "", ""), &[]);
        let mut client = plane.client();
        assert_eq!(client.send(post).answer().text(), "five!");
        assert_eq!(old.requests().len(), 1);
        assert_eq!((ended_as(&plane, Class::Error), plane.meters().shielded()), (1, 1));
        assert_eq!(plane.meters().side(Side::New).failures(Failure::Connect), 1);
        assert_eq!(client.send(get()).answer().status, 200, "the connection goes on");
    }
}

#[test]
fn a_body_of_any_size_goes_to_old_if_it_went_nowhere_else() {
    const SIZE: usize = 4 << 20;
    let old = Backend::answering(|request| ok(&[], request.body.len().to_string().as_bytes()));
    let plane = Plane::start(&config(&old.url(), &format!("http://{}", dead_address()), "", ""), &[]);
    assert_eq!(tell(&plane, with_length("POST", &[], &vec![b'x'; SIZE])).text(), SIZE.to_string());
}

#[test]
fn a_post_with_an_idempotency_key_is_sent_again_byte_for_byte() {
    let body: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).take(60_000).collect();
    let key = ["idempotency-key: 42"];
    for post in [with_length("POST", &key, &body), chunked("POST", &key, &body)] {
        let (old, new) = (Backend::answering(|request| ok(&[], &request.body)), that_resets());
        let plane = shielded(&old, &new);
        let answer = tell(&plane, &post);
        assert_eq!(answer.status, 200);
        assert!(answer.body == body && old.requests()[0].body == new.requests()[0].body);
        let framing = |request: &Request| {
            ["content-length", "transfer-encoding"].map(|name| request.header(name).map(str::to_owned))
        };
        assert_eq!(framing(&old.requests()[0]), framing(&new.requests()[0]));
    }
}

#[test]
fn a_body_without_bytes_is_sent_again() {
    for put in [chunked("PUT", &[], b""), with_length("PUT", &[], b"")] {
        let (old, new) = (Backend::named("old"), that_fails());
        let plane = shielded(&old, &new);
        assert_eq!(tell(&plane, put).text(), "old");
    }
}

#[test]
fn a_body_is_kept_up_to_a_size() {
    const SIZE: usize = 64 << 10;
    for (size, status, at_old) in [(SIZE, 200, 1), (SIZE + 1, 500, 0)] {
        let body = vec![b'x'; size];
        for put in [with_length("PUT", &[], &body), chunked("PUT", &[], &body)] {
            let (old, new) = (Backend::named("old"), that_fails());
            let plane = shielded(&old, &new);
            let mut client = plane.client();
            assert_eq!(client.send(put).answer().status, status, "{size}");
            assert_eq!(old.requests().len(), at_old, "{size}");
            assert_eq!(new.requests()[0].body.len(), size);
            assert_eq!(client.send(get()).answer().text(), "old", "the connection goes on");
        }
    }
}

#[test]
fn a_client_that_wants_to_be_asked_for_its_body_is_asked_once() {
    let dead = format!("http://{}", dead_address());
    for url in [that_fails().url(), dead] {
        let old = Backend::answering(|request| ok(&[], &request.body));
        let plane = Plane::start(&config(&old.url(), &url, "", ""), &[]);
        let mut client = plane.client();
        client.send(request("PUT", &["content-length: 5", "expect: 100-continue"], b""));
        assert_eq!(client.answer().status, 100);
        assert_eq!(client.send("five!").answer().text(), "five!");
    }
}

#[test]
fn old_has_its_own_time() {
    let old = Backend::answering(|_| {
        std::thread::sleep(Duration::from_secs(1)); // with what NEW took it is more than the timeout
        ok(&[], b"old")
    });
    let new = that_is_silent();
    let plane = shielded(&old, &new);
    let mut clients = [get(), with_length("PUT", &[], b"five!")].map(|request| {
        let mut client = plane.client();
        client.send(request);
        client
    });
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "old"));
}

#[test]
fn a_large_answer_of_old_is_streamed() {
    const SIZE: usize = 32 << 20;
    let (old, new) = (Backend::answering(|_| ok(&[], &vec![b'x'; SIZE])), that_fails());
    let plane = shielded(&old, &new);
    let mut client = plane.client();
    let answer = client.send(get()).answer();
    assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, SIZE));
    assert_eq!(client.send(get()).answer().body.len(), SIZE);
}

#[test]
fn a_kept_connection_that_new_closes_is_nobodys_failure_and_is_made_good() {
    let closes_at_the_second = || {
        Backend::scripted(|connection| {
            connection.read_request();
            connection.write(&ok(&[], b"new"));
            connection.read_request();
        })
    };
    for (second, status, text) in [(get(), 200, "old"), (with_length("POST", &[], b"hi"), 502, "")] {
        let (old, new) = (Backend::named("old"), closes_at_the_second());
        let plane = shielded(&old, &new);
        let mut client = plane.client();
        assert_eq!(client.send(get()).answer().text(), "new");
        let answer = client.send(second).answer();
        assert_eq!(answer.status, status);
        assert!(text.is_empty() || answer.text() == text, "{answer:?}");
        assert_eq!(ended_as(&plane, Class::Error), 1);
        // How long the machine took decides which of the two it was.
        let meters = plane.meters();
        let stale = meters.side(Side::New).failures(Failure::Stale);
        assert_eq!(stale + meters.side(Side::New).failures(Failure::Reset), 1);
        assert_eq!(guard_sees(&plane).0.bad, 1 - stale);
    }
}

// -- what is not

#[test]
fn a_post_that_reached_new_is_never_sent_again() {
    for (new, status) in [(that_fails(), 500), (that_resets(), 502), (that_is_silent(), 504)] {
        let old = Backend::named("old");
        let plane = shielded(&old, &new);
        for post in
            [with_length("POST", &[], b"hi"), request("POST", &["content-length: 0"], b""), chunked("PATCH", &[], b"x")]
        {
            assert_eq!(tell(&plane, post).status, status);
        }
        assert_eq!((old.connections(), plane.meters().shielded()), (0, 0));
        let (counted, marks) = guard_sees(&plane);
        assert_eq!(counted.bad, 3);
        assert!(marks.iter().all(|mark| !mark.is_shielded), "{marks:?}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_broken_for_the_client_too() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let new = after_a_request(move |connection| {
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello");
        let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        connection.close();
    });
    let old = Backend::named("old");
    let plane = shielded(&old, &new);
    let mut client = plane.client();
    client.send(get());
    eventually("the answer has begun", || client.stream.peek(&mut [0; 400]).is_ok_and(|n| n > 40));
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.status, answer.complete), (200, false));
    assert_eq!(ended_as(&plane, Class::Error), 1);
    assert_eq!(old.connections(), 0);
}

#[test]
fn a_tester_sees_what_new_does() {
    let (old, new) = (Backend::named("old"), that_fails());
    let force = "    force: { header: x-canary, networks: [127.0.0.0/8] }\n";
    let plane = Plane::start(&config(&old.url(), &new.url(), "", force), &[]);
    assert_eq!(tell(&plane, request("GET", &["x-canary: always"], b"")).status, 500);
    assert_eq!(tell(&plane, get()).status, 200);
}

#[test]
fn a_request_for_another_protocol_is_not_sent_again() {
    let (old, new) = (Backend::named("old"), that_fails());
    let plane = shielded(&old, &new);
    assert_eq!(tell(&plane, request("GET", &["connection: upgrade", "upgrade: websocket"], b"")).status, 500);
    assert_eq!(old.connections(), 0);
}

#[test]
fn a_body_that_its_client_has_not_finished_is_not_sent_again() {
    let new = Backend::scripted(|connection| {
        connection.read_head();
        connection.write(OOPS.as_bytes());
        connection.is_closed_by_peer();
    });
    let old = Backend::named("old");
    let plane = shielded(&old, &new);
    let answer = tell(&plane, request("PUT", &["content-length: 10"], b"half"));
    assert_eq!((answer.status, answer.header("connection")), (500, Some("close")));
    assert_eq!(old.connections(), 0);
}

#[test]
fn a_client_that_breaks_its_upload_is_not_made_good() {
    let (old, new) = (Backend::named("old"), that_fails());
    let plane = shielded(&old, &new);
    let answer = tell(&plane, request("PUT", &["transfer-encoding: chunked"], b"5\r\nhello\r\nnonsense\r\n"));
    assert_eq!(answer.status, 400);
    assert_eq!((old.connections(), plane.meters().shielded()), (0, 0));

    let plane = Plane::start(&config(&old.url(), &format!("http://{}", dead_address()), "", ""), &[]);
    let answer = tell(&plane, request("POST", &["transfer-encoding: chunked"], b"5\r\nhello\r\nnonsense\r\n"));
    assert_eq!((answer.status, plane.meters().shielded()), (400, 0), "nor is it OLD's answer");
}

#[test]
fn one_and_the_same_backend_is_not_asked_twice() {
    let both = that_fails();
    let plane = shielded(&both, &both);
    assert_eq!(tell(&plane, get()).status, 500);
    assert_eq!(both.requests().len(), 1);
}

// -- what happens meanwhile

fn drain(side: Side) -> Drain {
    Drain { side, cut_in: None, at: SystemTime::now(), by: somebody(), reason: String::new() }
}

/// The answer to a GET that NEW fails after `meanwhile`.
fn answer_after(meanwhile: impl FnOnce(&mut Plane)) -> Answer {
    let old = Backend::named("old");
    let (new, go) = patient(OOPS);
    let mut plane = shielded(&old, &new);
    let mut client = plane.client();
    client.send(get());
    eventually("the request runs on NEW", || new.requests().len() == 1);
    meanwhile(&mut plane);
    go.send(()).unwrap();
    client.answer()
}

#[test]
fn old_is_asked_only_where_it_serves() {
    assert_eq!(answer_after(|_| {}).text(), "old");
    let state = |overlay: &mut Overlay, side| {
        overlay.rollouts.entry("r".to_owned()).or_default().drain = Some(drain(side));
    };
    let drained = |side| answer_after(|plane| drop(plane.publish(|overlay| state(overlay, side)))).status;
    assert_eq!((drained(Side::Old), drained(Side::New)), (500, 200));
    assert_eq!(answer_after(|plane| plane.maintain(maintenance())).status, 500);
    assert_eq!(answer_after(|plane| drop(plane.hold())).status, 500);
    let read_only = || Maintenance { read_only: true, ..maintenance() };
    assert_eq!(answer_after(|plane| plane.maintain(read_only())).status, 200, "a GET is served there");
    let of_the_rollout = |overlay: &mut Overlay| {
        let standing = Standing { maintenance: Some(maintenance()), hold: None };
        overlay.rollouts.entry("r".to_owned()).or_default().standing = standing;
    };
    assert_eq!(answer_after(|plane| drop(plane.publish(of_the_rollout))).status, 500);
}

#[test]
fn whom_old_answers_runs_there() {
    let (old, go) = patient(ok(&[], b"old"));
    let new = Backend::scripted(|connection| {
        while let Some(request) = connection.read_request() {
            if request.target != "/wait" {
                connection.write(OOPS.as_bytes());
            }
        }
    });
    let config = config(&old.url(), &new.url(), "", "").replace("response: 2s", "response: 60s");
    let mut plane = Plane::start(&config, &[]);
    let mut client = plane.client();
    client.send(get());
    eventually("OLD is asked", || old.requests().len() == 1);
    let meters = plane.meters();
    let running = || Side::ALL.map(|side| meters.running(Seat::of(side, false)));
    assert_eq!(running(), [1, 0]);
    assert_eq!(Side::ALL.map(|side| meters.side(side).inflight()), [0, 1], "it is NEW's request all the same");
    let mut others: Vec<Client> = (0..4).map(|_| plane.client()).collect(); // on each worker there are some
    for other in &mut others {
        other.send("GET /wait HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n");
    }
    eventually("they run on NEW", || running() == [1, 4]);
    let state = |overlay: &mut Overlay| {
        let drain = Drain { cut_in: Some(Duration::ZERO), ..drain(Side::New) };
        overlay.rollouts.entry("r".to_owned()).or_default().drain = Some(drain);
    };
    plane.publish(state);
    others.iter_mut().for_each(|other| assert_eq!(other.try_answer(false), None, "who runs on NEW is cut off"));
    drop(go);
    assert_eq!(client.answer().text(), "old", "who runs on OLD is not");
    eventually("nothing runs", || running() == [0, 0]);
}

#[test]
fn the_guard_does_not_wait_for_the_end_of_olds_answer() {
    let old = after_a_request(|connection| {
        connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let new = that_fails();
    let plane = shielded(&old, &new);
    let mut client = plane.client();
    client.send(get());
    eventually("it is told", || guard_sees(&plane).0 == Counted { requests: 1, bad: 1 });
    assert_eq!(plane.meters().side(Side::New).inflight(), 1);
    drop(client);
    assert_eq!(ended_as(&plane, Class::ServerError), 1, "that its client left is no news about NEW");
    assert_eq!(guard_sees(&plane).0, Counted { requests: 1, bad: 1 }, "it is told once");
}

#[test]
fn a_client_that_leaves_while_old_is_asked_ends_it() {
    let (old, new) = (that_is_silent(), that_resets());
    let plane = shielded(&old, &new);
    let mut client = plane.client();
    client.send(get());
    eventually("OLD is asked", || old.requests().len() == 1);
    drop(client);
    assert_eq!(ended_as(&plane, Class::Error), 1);
    eventually("OLD is rid of it", || old.open_connections() == 0);
    let (counted, marks) = guard_sees(&plane);
    assert_eq!((counted, marks[0].is_shielded), (Counted { requests: 1, bad: 1 }, true));
    assert_eq!(plane.meters().shielded(), 0);
}

// -- where it ends

#[test]
fn if_both_fail_the_client_sees_what_old_did() {
    let dead = format!("http://{}", dead_address());
    let closed = Backend::saying("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\nclosed");
    for (old, status, text, failure) in
        [(dead, 502, None, Failure::Connect), (closed.url(), 503, Some("closed"), Failure::Status)]
    {
        let new = that_fails();
        let plane = Plane::start(&config(&old, &new.url(), "", ""), &[]);
        let mut client = plane.client();
        let answer = client.send(get()).answer();
        assert_eq!(answer.status, status);
        assert!(text.is_none_or(|text| answer.text() == text));
        assert_eq!(ended_as(&plane, Class::ServerError), 1, "it is NEW's failure all the same");
        let meters = plane.meters();
        assert_eq!(
            (meters.side(Side::Old).failures(failure), meters.side(Side::New).failures(Failure::Status)),
            (1, 1)
        );
        assert_eq!(meters.shielded(), 0);
        let (counted, marks) = guard_sees(&plane);
        assert_eq!((counted, marks[0].is_shielded), (Counted { requests: 1, bad: 1 }, true));
        assert_eq!(client.send(get()).answer().status, status, "the connection goes on");
    }
    assert_eq!(closed.requests().len(), 2, "once for each request");
}

#[test]
fn what_the_budget_does_not_cover_is_not_sent_again() {
    let (old, new) = (Backend::named("old"), that_fails());
    let mut plane = Plane::start(&config(&old.url(), &new.url(), "budget: 1%", ""), &[]);
    let mut client = plane.client();
    let mut good = 0;
    for n in 0..150 {
        if n == 50 {
            plane.publish(|_| {}); // it does not begin anew with what is in force
        }
        good += usize::from(client.send(get()).answer().status == 200);
    }
    assert_eq!(good, 101, "a hundred, and one for a hundred requests");
    assert_eq!((old.requests().len(), new.requests().len()), (101, 150));
    let (_, marks) = guard_sees(&plane);
    assert_eq!(marks.iter().filter(|mark| !mark.is_shielded).count(), 49);
}

#[test]
fn the_guard_takes_new_away_and_no_user_has_seen_a_failure() {
    let (old, new) = (Backend::named("old"), that_fails());
    let tidegate = Tidegate::start(&config(&old.url(), &new.url(), "", ""));
    let mut client = tidegate.client();
    let mut user = 0;
    eventually("NEW is rolled back", || {
        user += 1;
        assert_eq!(client.get_as(user).text(), "old");
        tidegate.metric("tidegate_rollback_active{rollout=\"r\"}") == 1.0
    });
    let at_new = new.requests().len();
    assert_eq!(client.get_as(user + 1).text(), "old");
    assert_eq!(new.requests().len(), at_new);
    let shielded = tidegate.metric("tidegate_shielded_requests_total{rollout=\"r\"}");
    assert_eq!(shielded, at_new as f64);
    let failed = "tidegate_requests_total{rollout=\"r\",side=\"new\",reason=\"bucket\",code_class=\"5xx\"}";
    assert_eq!(tidegate.metric(failed), at_new as f64);
}

#[test]
fn many_at_once_are_all_made_good() {
    let (old, new) = (Backend::answering(|request| ok(&[], &request.body)), that_resets());
    let plane = shielded(&old, &new);
    let mut clients: Vec<Client> = (0..50).map(|_| plane.client()).collect();
    for round in 0..2 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(with_length("PUT", &[], format!("{round} {n}").as_bytes()));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.answer().text(), format!("{round} {n}"));
        }
    }
    assert_eq!((ended_as(&plane, Class::Error), plane.meters().shielded()), (100, 100));
}
