//! The admin side: where it listens, whom it obeys, and under which names it may be asked.

use std::net::Ipv6Addr;
use std::path::Path;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Admin, ListenAddress, Listener, Secret, Token, raw};

/// A secret that can be guessed is none.
const SHORTEST_TOKEN: usize = 16;

impl Checker<'_> {
    pub(super) fn admin(&mut self, raw: &raw::Admin, listeners: &[Listener]) -> Option<Admin> {
        let place = Place::default().key("admin");
        let address = self.admin_address(&place.key("address"), raw, listeners);
        let tokens = raw.token_file.as_deref().map(|file| self.tokens(&place.key("token_file"), file));
        let allowed_hosts =
            self.faults.take_all(&place.key("allowed_hosts"), &raw.allowed_hosts, |text| allowed_host(text));
        Some(Admin { address: address?, tokens: tokens.unwrap_or_else(|| Some(Vec::new()))?, allowed_hosts })
    }

    fn admin_address(&mut self, place: &Place, raw: &raw::Admin, listeners: &[Listener]) -> Option<ListenAddress> {
        let address = self.faults.take(place, admin_address(&raw.address, self.folder, raw.token_file.is_some()))?;
        if listeners.iter().any(|listener| listener.address.collides_with(&address)) {
            let complaint = Complaint::new("this is a listener's address").help("give the admin side its own");
            self.faults.add(place.clone(), complaint);
        }
        Some(address)
    }

    fn tokens(&mut self, place: &Place, file: &str) -> Option<Vec<Token>> {
        const LARGEST: u64 = 64 << 10;
        let contents = self.file(place, file, LARGEST)?;
        self.faults.take(place, tokens(&contents))
    }
}

/// Without tokens the admin side answers everyone who reaches it, so nobody outside the machine may.
fn admin_address(text: &str, folder: &Path, has_tokens: bool) -> Checked<ListenAddress> {
    let allowed = "a loopback address such as 127.0.0.1:9901, or unix:/path/to/admin.sock";
    let address = value::listen_address(text, folder).map_err(|complaint| complaint.allowed(allowed))?;
    let is_near = match &address {
        ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        ListenAddress::Unix(_) => true,
    };
    match has_tokens || is_near {
        true => Ok(address),
        false => Err(Complaint::new("others could reach this address, and nothing says whom the admin side obeys")
            .allowed(format!("{allowed}; any other with `token_file`"))
            .help("add `token_file`, a file with lines of the form NAME: TOKEN")),
    }
}

/// The lines of a token file. What is wrong with one is told by its number, since any of its parts may be a secret.
fn tokens(contents: &[u8]) -> Checked<Vec<Token>> {
    let text = std::str::from_utf8(contents).map_err(|_| Complaint::new("the file is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tokens: Vec<Token> = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let token = token(line).and_then(|token| unlike(&tokens, token));
        let wrong = |(what, allowed): Wrong| Complaint::new(format!("line {}: {what}", at + 1)).allowed(allowed);
        tokens.push(token.map_err(wrong)?);
    }
    match tokens.is_empty() {
        true => Err(Complaint::new("the file holds no token").allowed("lines of the form NAME: TOKEN")),
        false => Ok(tokens),
    }
}

/// What is wrong with a line, and what is allowed.
type Wrong = (&'static str, &'static str);

/// `NAME: TOKEN`, or a token alone.
fn token(line: &str) -> Result<Token, Wrong> {
    let (name, secret) =
        line.split_once(':').map_or(("token", line), |(name, secret)| (name.trim_end(), secret.trim()));
    if value::name(name).is_err() {
        return Err(("what stands before the colon is not a name", "1 to 63 of the characters A-Z a-z 0-9 _ -"));
    }
    if secret.len() < SHORTEST_TOKEN {
        return Err((
            "this token is shorter than 16 characters",
            "16 characters or more, such as openssl rand -hex 32",
        ));
    }
    match secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(Token { name: name.to_owned(), secret: Secret::new(secret) }),
        false => Err(("no client can send this token", "visible ASCII characters, without spaces")),
    }
}

/// Two names for one secret, or two secrets for one name, and the audit would name the wrong person.
fn unlike(others: &[Token], token: Token) -> Result<Token, Wrong> {
    if others.iter().any(|other| other.name == token.name) {
        return Err((
            "another line has this name already",
            "lines of the form NAME: TOKEN, each with a name of its own",
        ));
    }
    match others.iter().any(|other| other.secret == token.secret) {
        true => Err(("another line has this token already", "a token of its own for each name")),
        false => Ok(token),
    }
}

/// As the header `host` has it, without the port.
fn allowed_host(text: &str) -> Checked<String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<Ipv6Addr>() {
        Ok(address) => Ok(format!("[{address}]")),
        Err(_) if value::is_host(text) => Ok(text.to_ascii_lowercase()),
        Err(_) => {
            Err(Complaint::new("this is not a host's name").allowed("a name such as tidegate.internal, without a port"))
        }
    }
}
