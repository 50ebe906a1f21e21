//! In which form tidegate says something itself: whatever the client's `accept` names, most wanted first.

use http::HeaderMap;
use http::header::ACCEPT;

use super::headers;

/// The forms of our own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Problem details (RFC 9457), for whoever names nothing else.
    Json,
    /// For browsers.
    Html,
    /// Plain text.
    Text,
    /// For calls of gRPC: headers that are trailers, and no body.
    Grpc,
}

impl Form {
    /// What `accept` (RFC 9110 §12.5.1) wants most among those it names; JSON if it names none of them. Wildcards name nothing:
    /// whoever takes everything did not ask for a page. A call of gRPC understands nothing but gRPC.
    pub(super) fn wanted_by(headers: &HeaderMap) -> Self {
        if headers::is_grpc(headers) {
            return Self::Grpc;
        }
        let wanted =
            headers.get_all(ACCEPT).iter().flat_map(|line| line.as_bytes().split(|b| *b == b',')).filter_map(named);
        // Of two that are wanted as much the better one to look at.
        let rank = |(form, quality): &(Self, u16)| (*quality, *form == Self::Html, *form == Self::Json);
        wanted.filter(|(_, quality)| *quality > 0).max_by_key(rank).map_or(Self::Json, |(form, _)| form)
    }

    /// The `content-type` of what we write in this form.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/problem+json",
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Grpc => "application/grpc",
        }
    }
}

/// A media range with its quality in thousandths, if it names one of our forms.
fn named(range: &[u8]) -> Option<(Form, u16)> {
    let mut parts = range.split(|b| *b == b';').map(<[u8]>::trim_ascii);
    let is = |name: &str, media: &[u8]| media.eq_ignore_ascii_case(name.as_bytes());
    let form = match parts.next()? {
        media if is("text/html", media) || is("application/xhtml+xml", media) => Form::Html,
        media if is("application/json", media) || is("application/problem+json", media) => Form::Json,
        media if is("text/plain", media) => Form::Text,
        _ => return None,
    };
    let quality = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    Some((form, quality.map_or(1000, thousandths)))
}

/// `1`, `0.5`, `0.123` as thousandths; what is no quality is taken as wanted.
fn thousandths(quality: &[u8]) -> u16 {
    let quality = std::str::from_utf8(quality).ok().and_then(|text| text.parse::<f32>().ok());
    let in_range = quality.filter(|quality| (0.0..=1.0).contains(quality)).unwrap_or(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    let thousandths = (in_range * 1000.0).round() as u16;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn everybody_gets_the_form_that_they_name() {
        for (accept, form) in [
            (&[][..], Form::Json),
            (&["*/*"], Form::Json),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Form::Html),
            (&["application/json, text/plain, */*"], Form::Json),
            (&["text/plain"], Form::Text),
            (&["text/plain, */*;q=0.1"], Form::Text),
            (&["TEXT/Plain;charset=utf-8; q=0.9", "text/html;q=0.2"], Form::Text),
            (&["text/html;q=0, application/json;q=0.001"], Form::Json),
            (&["text/html;q=0"], Form::Json),
            (&["text/html;q=0.5, application/json"], Form::Json),
            (&["text/html;q=rubbish"], Form::Html),
            (&["text/*"], Form::Json),
            (&["image/png"], Form::Json),
        ] {
            let mut headers = HeaderMap::new();
            accept.iter().for_each(|line| {
                headers.append(ACCEPT, HeaderValue::from_static(line));
            });
            assert_eq!(Form::wanted_by(&headers), form, "{accept:?}");
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
            assert_eq!(Form::wanted_by(&headers), Form::Grpc, "{accept:?}");
        }
    }
}
