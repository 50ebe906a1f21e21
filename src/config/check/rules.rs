//! Rules: keys that always go to one side, from the config and from files of keys.

use std::collections::HashSet;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::raw::{self, Scalar};
use crate::config::value::Checked;
use crate::policy::decision::Rule;

type Keys = HashSet<Box<[u8]>>;

impl Checker<'_> {
    pub(super) fn rules(&mut self, place: &Place, written: &[raw::Rule]) -> Vec<Rule> {
        written.iter().enumerate().filter_map(|(at, rule)| self.rule(&place.item(at), rule)).collect()
    }

    fn rule(&mut self, place: &Place, raw: &raw::Rule) -> Option<Rule> {
        let side = self.required(place, "side", raw.side.as_ref(), "old or new");
        if raw.keys.is_empty() && raw.keys_file.is_none() {
            let complaint = Complaint::new("this rule names no keys");
            self.faults.add(place.as_key(), complaint.help("add `keys` or `keys_file`"));
        }
        let mut keys: Keys = self.faults.take_all(&place.key("keys"), &raw.keys, key).into_iter().collect();
        if let Some(file) = &raw.keys_file {
            keys.extend(self.keys_file(&place.key("keys_file"), file).unwrap_or_default());
        }
        Some(Rule { keys, side: (*side?).into() })
    }

    fn keys_file(&mut self, place: &Place, file: &str) -> Option<Keys> {
        const LARGEST: u64 = 16 << 20;
        let contents = self.file(place, file, LARGEST)?;
        let contents = contents.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&contents);
        let lines = contents.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let keys: Keys = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(Box::from).collect();
        if keys.is_empty() {
            self.faults.add(place.clone(), Complaint::new("the file names no keys").allowed("one key a line"));
        }
        Some(keys)
    }
}

/// A whole number is the digits it was written with (the readers see to that); a fraction can be written in many ways.
fn key(written: &raw::Key) -> Checked<Box<[u8]>> {
    match &written.0 {
        Scalar::Integer(number) => Ok(number.to_string().into_bytes().into()),
        Scalar::Float(_) => Err(Complaint::new("this number cannot be a key as it stands").help("put it in quotes")),
        Scalar::Text(text) if text.trim().is_empty() => Err(Complaint::new("a key is not empty")),
        Scalar::Text(text) => Ok(text.trim_ascii().as_bytes().into()),
    }
}
