//! `${VAR}` and `${VAR:-default}` inside values.
//!
//! Variables are filled in after the file was read, so that what a variable holds is only ever one value: it cannot
//! bring a key, a list or a comment into the file.

use super::document::{Entry, Expanded, Node, Place, Value};
use super::error::Complaint;
use super::fault::Faults;

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Fills in the variables of every string below `node`.
pub(super) fn expand(node: &mut Node, place: &Place, environment: Environment<'_>, faults: &mut Faults) {
    match &mut node.value {
        Value::String(text) if text.contains('$') => {
            if let Some(expanded) = faults.take(place, fill(text, environment)) {
                node.value = Value::Expanded(expanded);
            } else {
                node.refused = true;
            }
        }
        Value::List(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                expand(item, &place.item(at), environment, faults);
            }
        }
        Value::Map(entries) => {
            for Entry { key, node, .. } in entries {
                expand(node, &place.key(key), environment, faults);
            }
        }
        _ => {}
    }
}

fn fill(written: &str, environment: Environment<'_>) -> Result<Expanded, Complaint> {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    let mut whole = false;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(reference) = after.strip_prefix('{') {
            let (inside, tail) = reference.split_once('}').ok_or_else(unclosed)?;
            text.push_str(&look_up(inside, environment)?);
            whole = at == 0 && rest.len() == written.len() && tail.is_empty();
            tail
        } else {
            text.push('$');
            after.strip_prefix('$').unwrap_or(after)
        };
    }
    text.push_str(rest);
    Ok(Expanded { text, written: written.to_owned(), whole })
}

/// As in a shell, `:-` also stands in for a variable that is set but empty.
fn look_up(reference: &str, environment: Environment<'_>) -> Result<String, Complaint> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_name(name) {
        return Err(Complaint::new("this is not a variable's name")
            .allowed("${NAME} or ${NAME:-default}, a name of letters, digits and _")
            .help("write $$ for a literal $"));
    }
    match (environment(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Complaint::new(format!("the environment variable `{name}` is not set"))
            .help(format!("set it, or give a default: ${{{name}:-default}}"))),
    }
}

fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(word) && !name.starts_with(|first: char| first.is_ascii_digit()) && !name.is_empty()
}

fn unclosed() -> Complaint {
    Complaint::new("`${` is not closed").help("close it with }, or write $$ for a literal $")
}

impl Expanded {
    /// What `${VAR}` alone stands for where a number or a boolean may stand.
    pub(super) fn reread(&self) -> Option<Value> {
        let text = self.text.as_str();
        match text {
            _ if !self.whole => None,
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ if !looks_like_a_number(text) => None,
            _ => text.parse().map(Value::Integer).or_else(|_| text.parse().map(Value::Float)).ok(),
        }
    }
}

/// `007` does not: as in YAML and JSON it is a word, so that an id keeps its zeros.
fn looks_like_a_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let zeros = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    digits.starts_with(|first: char| first.is_ascii_digit()) && !zeros
}
