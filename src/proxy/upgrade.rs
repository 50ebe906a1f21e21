//! A client that would speak WebSocket: whether it asks for that in order, how the backend is asked, and what agreement looks
//! like (RFC 6455 §4, RFC 8441).
//!
//! Nothing else is let through: what an upgrade to any other protocol would carry, nobody here has looked at.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body as _;
use sha1::{Digest as _, Sha1};

use super::headers::Survey;
use crate::upstream::Incoming;

/// The one protocol for which HTTP makes way.
const WEBSOCKET: &str = "websocket";
const WEBSOCKET_VALUE: HeaderValue = HeaderValue::from_static(WEBSOCKET);
const UPGRADE_VALUE: HeaderValue = HeaderValue::from_static("Upgrade");
/// The version that RFC 6455 §4.1 knows.
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// What a key is hashed with (RFC 6455 §1.3).
const KEYS_MATE: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a client asks for that would speak WebSocket.
#[derive(Debug)]
pub(super) struct Wish {
    /// The client's, or ours for one that has a stream and needs none.
    key: HeaderValue,
    is_of_stream: bool,
    /// What the client sends on its stream. Nobody reads it before the backend has agreed.
    stream: Option<RecvStream>,
}

/// What a backend says to a [`Wish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Agreed,
    /// No: this is an answer like any other.
    Declined,
    /// Yes to something else, or in a way that nobody can rely on.
    Wrong,
}

/// Makes an extended CONNECT for WebSocket (RFC 8441 §4) the GET that it is on HTTP/1, and is for routes, keys and backends.
/// Tells whether it was one.
pub(super) fn as_get(request: &mut Request<Incoming>) -> bool {
    let is_wish = *request.method() == Method::CONNECT && asks_for_websocket(request.extensions());
    if is_wish {
        *request.method_mut() = Method::GET;
    }
    is_wish
}

fn asks_for_websocket(extensions: &http::Extensions) -> bool {
    extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET))
}

impl Wish {
    /// What the request, which `body` follows, asks for, if that is to speak WebSocket and all is as it has to be.
    pub(super) fn in_head(parts: &mut Parts, survey: Survey, body: &Incoming) -> Option<Box<Self>> {
        if !survey.upgrade || parts.method != Method::GET {
            return None;
        }
        if parts.version == Version::HTTP_2 {
            let is_wish = asks_for_websocket(&parts.extensions);
            parts.extensions.remove::<Protocol>();
            return is_wish.then(|| Box::new(Self { key: new_key(), is_of_stream: true, stream: None }));
        }
        let headers = &parts.headers;
        let is_in_order = parts.version == Version::HTTP_11
            && body.is_end_stream()
            && names(headers, &CONNECTION, "upgrade")
            && names(headers, &UPGRADE, WEBSOCKET);
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        match (keys.next(), keys.next()) {
            (Some(key), None) if is_in_order => {
                Some(Box::new(Self { key: key.clone(), is_of_stream: false, stream: None }))
            }
            _ => None,
        }
    }

    /// Keeps what comes from the client until it may be read.
    pub(super) fn keep(&mut self, body: Incoming) {
        self.stream = body.into_stream();
    }

    /// What was kept.
    pub(super) fn into_stream(self) -> Option<RecvStream> {
        self.stream
    }

    /// Has a request for the backend ask for WebSocket, over a stream or over a connection.
    pub(super) fn ask<B>(&self, request: &mut Request<B>, over_stream: bool) {
        let headers = request.headers_mut();
        if !headers.contains_key(SEC_WEBSOCKET_VERSION) {
            headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
        }
        if over_stream {
            [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY].iter().for_each(|name| drop(headers.remove(name)));
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
        } else {
            headers.insert(CONNECTION, UPGRADE_VALUE);
            headers.insert(UPGRADE, WEBSOCKET_VALUE);
            headers.insert(SEC_WEBSOCKET_KEY, self.key.clone());
            *request.method_mut() = Method::GET;
            request.extensions_mut().remove::<Protocol>();
        }
    }

    /// What the backend's answer, over a stream or over a connection, means. A client with a stream takes any success for
    /// agreement, so that it must not see one that is none.
    pub(super) fn judge<B>(&self, response: &Response<B>, over_stream: bool) -> Verdict {
        let (status, headers) = (response.status(), response.headers());
        if over_stream {
            return if status.is_success() { Verdict::Agreed } else { Verdict::Declined };
        }
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let would_mislead = self.is_of_stream && status.is_success();
            return if would_mislead { Verdict::Wrong } else { Verdict::Declined };
        }
        let is_to_us = || headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| *accept == answer_to(&self.key));
        let is_in_order = names(headers, &CONNECTION, "upgrade")
            && headers.get_all(UPGRADE).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
            && headers.contains_key(UPGRADE)
            && (!self.is_of_stream || is_to_us());
        if is_in_order { Verdict::Agreed } else { Verdict::Wrong }
    }

    /// Makes of the backend's agreement, over a stream or over a connection, what the client is told.
    pub(super) fn grant<B>(&self, response: &mut Response<B>, over_stream: bool) {
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        if self.is_of_stream {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            *response.status_mut() = StatusCode::OK;
            return;
        }
        headers.insert(CONNECTION, UPGRADE_VALUE);
        headers.insert(UPGRADE, WEBSOCKET_VALUE);
        if over_stream {
            headers.insert(SEC_WEBSOCKET_ACCEPT, answer_to(&self.key));
        }
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
}

/// Whether a list of names has this one.
fn names(headers: &HeaderMap, list: &HeaderName, name: &str) -> bool {
    let mut names = headers.get_all(list).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    names.any(|found| found.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// 16 random bytes (RFC 6455 §4.1). No secret: it only shows that the answer is one to this request.
fn new_key() -> HeaderValue {
    let key = BASE64_STANDARD.encode(fastrand::u128(..).to_be_bytes());
    HeaderValue::try_from(key).expect("base64 is visible ASCII")
}

/// `sec-websocket-accept` (RFC 6455 §4.2.2).
fn answer_to(key: &HeaderValue) -> HeaderValue {
    let digest = Sha1::new_with_prefix(key.as_bytes().trim_ascii()).chain_update(KEYS_MATE).finalize();
    HeaderValue::try_from(BASE64_STANDARD.encode(digest)).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer_to(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(BASE64_STANDARD.decode(new_key().as_bytes()).unwrap().len(), 16);
    }

    #[test]
    fn only_agreement_to_what_was_asked_is_agreement() {
        let (of_connection, of_stream) = (wish(false), wish(true));
        let accept = answer_to(&of_stream.key);
        let accept = accept.to_str().unwrap();
        let good = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-accept", accept)];
        for (status, headers, at_connection, at_stream) in [
            (101, &good[..], Verdict::Agreed, Verdict::Agreed),
            (101, &good[..2], Verdict::Agreed, Verdict::Wrong),
            (101, &good[1..], Verdict::Wrong, Verdict::Wrong),
            (101, &[good[0], good[2]], Verdict::Wrong, Verdict::Wrong),
            (101, &[good[0], ("upgrade", "h2c"), good[2]], Verdict::Wrong, Verdict::Wrong),
            (101, &[good[0], good[1], ("upgrade", "h2c"), good[2]], Verdict::Wrong, Verdict::Wrong),
            (101, &[], Verdict::Wrong, Verdict::Wrong),
            (200, &good, Verdict::Declined, Verdict::Wrong),
            (204, &[], Verdict::Declined, Verdict::Wrong),
            (426, &good, Verdict::Declined, Verdict::Declined),
            (503, &[], Verdict::Declined, Verdict::Declined),
        ] {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
            }
            let judged = (of_connection.judge(&response, false), of_stream.judge(&response, false));
            assert_eq!(judged, (at_connection, at_stream), "{status} {headers:?}");
        }
    }

    fn wish(is_of_stream: bool) -> Wish {
        Wish { key: HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="), is_of_stream, stream: None }
    }
}
