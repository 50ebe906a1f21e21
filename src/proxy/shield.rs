//! The shield: OLD is asked in place of a NEW that has failed.
//!
//! Whether that may be is for `policy::shield` to say. What it takes is kept beside the request while NEW has it: a copy of the
//! rewritten head, and of the body as it passes by. Nothing is kept of a request that may not be sent twice, and nothing of any
//! where no shield is configured.

use std::rc::Rc;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use hyper::body::Body as _;
use tokio::time::Instant;

use super::body::{Kept, RequestBody, Upload};
use super::closed::would_serve;
use super::exchange::Report;
use super::forward::Asked;
use super::headers;
use super::send::{Attempt, Tried, Trouble, send};
use super::subject::Head;
use crate::metrics::Class;
use crate::policy::decision::{Decision, Side};
use crate::policy::shield::{Case, Reached, is_repeatable, may_replay};
use crate::snapshot::{Rollout, Snapshot};

/// By which a client lets a service recognize a request that comes twice (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the backend of a request that comes from the shield is told as the reason.
const REASON: HeaderValue = HeaderValue::from_static("shield");

/// A request that OLD may be asked to answer, while NEW has it.
#[derive(Debug)]
pub(super) struct Shield {
    /// An index into the rollouts of the snapshot by which it was decided.
    rollout: usize,
    /// As it stands before it was sent.
    case: Case,
    /// Its host is not the client's word, but the backend's own.
    is_backends_host: bool,
    upload: Option<Rc<Upload>>,
    spare: Option<Box<Spare>>,
}

/// What it takes to send a request once more.
#[derive(Debug)]
struct Spare {
    head: Parts,
    /// `None` if there is no body.
    body: Option<Rc<Kept>>,
}

impl Shield {
    /// `None` if OLD will not be asked, whatever becomes of `request`, which is ready to be sent.
    pub(super) fn raise(
        report: &Report,
        (rollout, decision): (usize, Decision),
        asked: Asked,
        request: &mut Request<RequestBody>,
        upload: Option<&Rc<Upload>>,
    ) -> Option<Self> {
        let config = report.view.snapshot.rollouts[rollout].shield.as_ref()?;
        let is_repeatable = is_repeatable(request.method().as_str(), request.headers().contains_key(IDEMPOTENCY_KEY));
        let case = Case { decision, asks_for_upgrade: asked.upgrade, is_repeatable, reached: Reached::Nobody };
        may_replay(case).then(|| Self {
            rollout,
            case,
            is_backends_host: !asked.host,
            upload: upload.cloned(),
            spare: if is_repeatable { Spare::of(request, upload.is_some(), config.max_body) } else { None },
        })
    }

    /// OLD's answer in place of `tried`, which is a failure of NEW's; or that, if OLD is not to be asked.
    pub(super) async fn answer_instead(self, tried: Tried, report: &mut Report) -> Tried {
        let view = report.client.worker.view();
        let Some(rollout) = self.find_old(&tried, report, &view.snapshot) else { return tried };
        if !rollout.meters.shield(report.client.worker.index()).take() {
            return tried;
        }
        let (backend, begun) = (rollout.backend(Side::Old), Instant::now());
        report.falls_back(class_of(&tried), rollout.seat(Side::Old), begun);
        report.client.watch.waits_anew();
        let host = self.is_backends_host.then(|| view.snapshot.backends[backend].host.clone());
        let (mut request, upload) = self.once_more(tried);
        address_to_old(request.headers_mut(), host);
        let tried = send(report, Attempt { view: &view, backend, begun, wish: None }, request, upload).await;
        report.fell_back(tried.as_ref().is_ok_and(|answer| !answer.is_failure));
        tried
    }

    /// The rollout as it is `now`, if OLD may be asked there and the request may be sent again.
    fn find_old<'a>(&self, tried: &Tried, report: &Report, now: &'a Snapshot) -> Option<&'a Rollout> {
        let case = Case { reached: self.reached(tried), ..self.case };
        let head = self.head(tried, report, now).filter(|_| may_replay(case))?;
        let then = &*report.view.snapshot;
        let decided = &then.rollouts[self.rollout];
        let at = now.rollouts.iter().position(|rollout| Arc::ptr_eq(&rollout.meters, &decided.meters))?;
        let rollout = &now.rollouts[at];
        // What was NEW may be OLD by now, and has failed all the same.
        let (failed, old) = (&then.backends[decided.backend(Side::New)], &now.backends[rollout.backend(Side::Old)]);
        let is_free = rollout.shield.is_some() && !rollout.empties(Side::Old) && would_serve(now, head, at);
        (is_free && !old.is_where(failed)).then_some(rollout)
    }

    /// The head of what would be sent again, if that is here.
    fn head<'a>(&'a self, tried: &'a Tried, report: &Report, now: &Snapshot) -> Option<Head<'a>> {
        let (method, uri, headers) = match (tried, &self.spare) {
            (Err(Trouble::Unsent(_, request)), _) => (request.method(), request.uri(), request.headers()),
            (_, Some(spare)) => (&spare.head.method, &spare.head.uri, &spare.head.headers),
            (_, None) => return None,
        };
        Some(Head { method, uri, headers, client: report.client.behind(now, headers) })
    }

    fn reached(&self, tried: &Tried) -> Reached {
        match tried {
            Err(Trouble::Unsent(..)) => Reached::Nobody,
            _ => Reached::Backend {
                is_kept: self.spare.as_ref().is_some_and(|spare| spare.is_whole(self.upload.as_ref())),
            },
        }
    }

    /// The request to be sent again. What NEW made of it is forgotten.
    fn once_more(self, tried: Tried) -> (Request<RequestBody>, Option<Rc<Upload>>) {
        if let Err(Trouble::Unsent(_, request)) = tried {
            return (*request, self.upload);
        }
        self.spare.expect("a request that was sent is sent again only if it was kept").request()
    }
}

impl Spare {
    /// `None` if the body is too large to be kept.
    fn of(request: &mut Request<RequestBody>, has_body: bool, max_body: usize) -> Option<Box<Self>> {
        if request.body().size_hint().lower() > max_body as u64 {
            return None;
        }
        let body = if has_body { Some(request.body_mut().keep(max_body)?) } else { None };
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.headers = request.headers().clone();
        Some(Box::new(Self { head, body }))
    }

    /// Whether all of the body has been sent and kept.
    fn is_whole(&self, upload: Option<&Rc<Upload>>) -> bool {
        upload.is_none_or(|upload| upload.is_done()) && self.body.as_ref().is_none_or(|body| body.is_whole())
    }

    fn request(self) -> (Request<RequestBody>, Option<Rc<Upload>>) {
        let (body, upload) = RequestBody::again(self.body.map(|body| body.take()).unwrap_or_default());
        (Request::from_parts(self.head, body), upload)
    }
}

/// How the request has ended for NEW.
fn class_of(tried: &Tried) -> Class {
    match tried {
        Ok(answer) => Class::of_status(answer.response.status().as_u16()),
        Err(_) => Class::Error,
    }
}

fn address_to_old(headers: &mut HeaderMap, host: Option<HeaderValue>) {
    headers.insert(headers::SIDE, HeaderValue::from_static(Side::Old.as_str()));
    headers.insert(headers::REASON, REASON);
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
}
