//! Webhooks: who they are, what they are told, and what nobody is told of them.

use std::path::Path;

use super::{MINIMAL, complaints, yaml};
use crate::config::{Config, ConfigError, WebhookEvent, parse};

const URL: &str = "https://me:hunter2@hooks.example.com/services/T0/B1?key=k3y";
const PRIVATE: [&str; 4] = ["hunter2", "services", "T0/B1", "k3y"];

fn with(webhooks: &str) -> Result<Config, ConfigError> {
    yaml(&format!("{MINIMAL}webhooks: {webhooks}\n"))
}

#[test]
fn a_url_is_enough() {
    let config =
        with(&format!("[{{url: \"{URL}\"}}, {{name: chat, url: \"http://[::1]:8080\", events: [trip, trip]}}]"))
            .unwrap();
    let [first, second] = config.webhooks.as_slice() else { panic!("two of them") };
    assert_eq!((first.name.as_str(), first.url.to_string().as_str()), ("webhook-1", "https://hooks.example.com"));
    assert_eq!((first.url.uri().to_string().as_str(), &first.key), (URL, &None));
    assert_eq!(first.events, WebhookEvent::ALL);
    assert_eq!((second.name.as_str(), second.events.as_slice()), ("chat", [WebhookEvent::Trip].as_slice()));
}

#[test]
fn what_cannot_be_is_told_at_its_place() {
    for (webhooks, complaint) in [
        ("[{}]", "webhooks[0]: `url` is missing"),
        ("[{url: hooks.example.com}]", "webhooks[0].url: this is not an http or https URL with a host"),
        ("[{url: 'ftp://a/b'}]", "webhooks[0].url: this is not an http or https URL with a host"),
        ("[{url: \"http://a/\\r\\nx: y\"}]", "webhooks[0].url: this is not an http or https URL with a host"),
        ("[{url: 'http://a b/'}]", "webhooks[0].url: this is not an http or https URL with a host"),
        ("[{url: 'http://a..b/'}]", "webhooks[0].url: this URL has no valid host"),
        ("[{url: 'http://a:0/'}]", "webhooks[0].url: this URL has no valid port"),
        ("[{url: 'http://a/#b'}]", "webhooks[0].url: a webhook's URL holds no #"),
        (
            "[{url: 'http://a', secret_file: nowhere}]",
            "webhooks[0].secret_file: the file cannot be read: there is no such file",
        ),
        ("[{url: 'http://a', events: []}]", "webhooks[0].events: this webhook would be told of nothing"),
        ("[{url: 'http://a', events: [trips]}]", "webhooks[0].events[0]: this is not one of the allowed words"),
        ("[{url: 'http://a', name: 'a b'}]", "webhooks[0].name: this name cannot be used"),
        (
            "[{url: 'http://a', name: x}, {url: 'http://b', name: x}]",
            "webhooks[1].name: another webhook is called `x` already",
        ),
        (
            "[{url: 'http://a', name: webhook-2}, {url: 'http://b'}]",
            "webhooks[1]: another webhook is called `webhook-2` already",
        ),
        ("[{uri: 'http://a'}]", "webhooks[0].uri: unknown key `uri`"),
    ] {
        assert_eq!(complaints(&format!("{MINIMAL}webhooks: {webhooks}\n")), [complaint], "{webhooks}");
    }
}

#[test]
fn a_secret_comes_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let with = |secret: &str| {
        std::fs::write(folder.path().join("hook-secret"), secret).unwrap();
        let text = format!("{MINIMAL}webhooks: [{{url: 'http://a', secret_file: hook-secret}}]\n");
        parse(text.as_bytes(), &folder.path().join("tidegate.yaml"), &|_| None)
    };
    let key = with("whsec_MDEyMzQ1Njc4OWFiY2RlZg==\n").unwrap().webhooks.remove(0).key;
    assert_eq!(key.unwrap().expose(), b"0123456789abcdef");
    for (secret, why) in [("short-s3cret", "shorter than 16"), ("whsec_s3cret!s3cret!s3cret!", "not base64")] {
        let told = with(secret).unwrap_err().to_string();
        assert!(told.contains(why) && !told.contains("s3cret"), "{told}");
    }
}

#[test]
fn neither_an_error_nor_the_config_that_is_shown_says_what_is_private_in_a_url() {
    let config = with(&format!("[{{url: \"{URL}\"}}]")).unwrap();
    assert_eq!(config.written["webhooks"][0]["url"], "https://***@hooks.example.com/***");
    let shown = format!("{:?} {}", config.webhooks, config.written);
    let wrong = [
        with(&format!("[{{url: \"{URL}#x\"}}]")),
        with(&format!("[{{url: \"{URL}\", evnts: []}}]")),
        with(&format!("[{{url: \"{URL}\"")),
        with(&format!("[{{url: \"{URL}\", url: \"{URL}\"}}]")),
        parse(format!("{{\"webhooks\": [{{\"url\": \"{URL}\", 7}}]}}").as_bytes(), Path::new("a.json"), &|_| None),
        parse(format!("webhooks = [{{url = \"{URL}\", x}}]").as_bytes(), Path::new("a.toml"), &|_| None),
    ];
    let errors = wrong.map(|error| error.unwrap_err()).map(|error| format!("{error} {}", error.to_json()));
    for told in [[shown].as_slice(), &errors].concat() {
        assert!(PRIVATE.iter().all(|private| !told.contains(private)), "{told}");
    }
}
