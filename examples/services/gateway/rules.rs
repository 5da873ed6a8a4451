// SPDX-License-Identifier: Apache-2.0
//! The rules, and what they say of a request. No I/O: whatever is wrong with the rules is an error, and never a rule less.
use crate::sha256;
use crate::wasi::METHODS;

const MAX_PATH_BYTES: usize = 2048;
const MAX_CONFIGURED_BYTES: usize = 4 << 20;
/// Never to be forwarded, in either direction: what belongs to one connection, frames a message or says who somebody is.
/// `range` would let somebody fetch an answer in pieces, none of which has the upstream's key in it.
#[rustfmt::skip]
const OWN: [&str; 20] = [
    "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "expect", "forwarded", "host",
    "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "te",
    "trailer", "transfer-encoding", "upgrade", "www-authenticate", CLIENT_HEADER,
];
/// What tells the upstream which client it is.
pub const CLIENT_HEADER: &str = "x-gateway-client";

struct Client {
    name: String,
    token_digest: [u8; 32],
}

struct Allowed {
    client: String,
    methods: Vec<String>,
    path: String,
}

pub struct Rules {
    pub upstream: String,
    clients: Vec<Client>,
    allowed: Vec<Allowed>,
    /// Of requests, by their names in lower case. All others stay here.
    pub passed: Vec<String>,
    /// Of answers, likewise.
    pub returned: Vec<String>,
    pub added: Vec<(String, String)>,
    pub max_body_bytes: usize,
    pub max_answer_bytes: usize,
    pub timeout_s: u64,
}

/// What is answered instead of forwarding: status, words, and the methods that would be allowed.
pub struct Refusal {
    pub status: u16,
    pub words: &'static str,
    pub methods: Vec<String>,
}

fn refusal(status: u16, words: &'static str) -> Refusal {
    Refusal { status, words, methods: Vec::new() }
}

impl Rules {
    /// Reads rules: one to a line, words between spaces, `#` begins a line that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut once: Vec<(&str, &str)> = Vec::new();
        let mut rules = Rules {
            upstream: String::new(),
            clients: Vec::new(),
            allowed: Vec::new(),
            passed: Vec::new(),
            returned: Vec::new(),
            added: Vec::new(),
            max_body_bytes: 0,
            max_answer_bytes: 0,
            timeout_s: 0,
        };
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let read = match words[..] {
                [] => Ok(()),
                [first, ..] if first.starts_with('#') => Ok(()),
                [key @ ("upstream" | "max-body" | "max-answer" | "timeout"), value] => {
                    if once.iter().any(|(seen, _)| *seen == key) {
                        Err("found it twice")
                    } else {
                        once.push((key, value));
                        Ok(())
                    }
                }
                ["client", name, digest] => rules.read_client(name, digest),
                ["allow", client, methods, path] => rules.read_allowed(client, methods, path),
                ["pass", ref names @ ..] => read_names(names, &mut rules.passed),
                ["return", ref names @ ..] => read_names(names, &mut rules.returned),
                ["add", name, value] => rules.read_added(name, value),
                _ => Err("found no rule"),
            };
            read.map_err(|wrong| format!("line {}: {}", at + 1, wrong))?;
        }
        let value = |key: &str| {
            let found = once.iter().find(|(seen, _)| *seen == key);
            found.map(|(_, value)| *value).ok_or_else(|| format!("found no {}, want one", key))
        };
        let number = |key: &str, max: usize| {
            let found = value(key)?.parse().ok().filter(|number| (1..=max).contains(number));
            found.ok_or_else(|| format!("{}: want a number from 1 to {}", key, max))
        };
        rules.upstream = value("upstream")?.to_string();
        if !is_authority(&rules.upstream) {
            return Err("upstream: want HOST:PORT".into());
        }
        rules.max_body_bytes = number("max-body", MAX_CONFIGURED_BYTES)?;
        rules.max_answer_bytes = number("max-answer", MAX_CONFIGURED_BYTES)?;
        rules.timeout_s = number("timeout", 60)? as u64;
        if rules.clients.is_empty() {
            return Err("found no client, want one".into());
        }
        Ok(rules)
    }

    fn read_client(&mut self, name: &str, digest: &str) -> Result<(), &'static str> {
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err("want letters, digits and hyphens for the client's name");
        }
        let token_digest = from_hex(digest).ok_or("want the SHA-256 of the client's token, in hex")?;
        // A token of two clients would make the first of them whoever has it.
        if self.clients.iter().any(|client| client.name == name || client.token_digest == token_digest) {
            return Err("found the client's name or token before");
        }
        self.clients.push(Client { name: name.into(), token_digest });
        Ok(())
    }

    fn read_allowed(&mut self, client: &str, methods: &str, path: &str) -> Result<(), &'static str> {
        if !self.clients.iter().any(|each| each.name == client) {
            return Err("found no such client above");
        }
        let methods: Vec<String> = methods.split(',').map(String::from).collect();
        let usable = |method: &String| METHODS.contains(&method.as_str()) && method != "CONNECT" && method != "TRACE";
        if !methods.iter().all(usable) {
            return Err("want methods between commas, of GET HEAD POST PUT DELETE OPTIONS PATCH");
        }
        if judge_path(path) != Ok(path) {
            return Err("want a path that a request could have");
        }
        self.allowed.push(Allowed { client: client.into(), methods, path: path.into() });
        Ok(())
    }

    fn read_added(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let mut names = Vec::new();
        read_names(&[name], &mut names)?;
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("want a value of visible ASCII characters");
        }
        self.added.push((names.remove(0), value.into()));
        Ok(())
    }

    /// Returns the name of whoever has sent these values of Authorization.
    pub fn who(&self, values: &[&[u8]]) -> Result<&str, Refusal> {
        let unknown = || refusal(401, "want the token of a client: Authorization: Bearer TOKEN");
        let value = match values {
            [] => return Err(unknown()),
            [one] => one,
            _ => return Err(refusal(400, "found several Authorization headers, want one")),
        };
        let (scheme, token) = value.split_at(value.len().min(7));
        if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() {
            return Err(unknown());
        }
        // Digests are compared, so the time that it takes says nothing of a token.
        let digest = sha256::digest(token);
        let found = self.clients.iter().find(|client| client.token_digest == digest);
        found.map(|client| client.name.as_str()).ok_or_else(unknown)
    }

    /// Returns if this client may do this.
    pub fn judge(&self, client: &str, method: &str, target: &str) -> Result<(), Refusal> {
        let path = judge_path(target).map_err(|words| refusal(400, words))?;
        let there: Vec<&Allowed> = self.allowed.iter().filter(|rule| rule.covers(path)).collect();
        if there.is_empty() {
            return Err(refusal(404, "no rule has this path"));
        }
        let own: Vec<&Allowed> = there.into_iter().filter(|rule| rule.client == client).collect();
        if own.is_empty() {
            return Err(refusal(403, "no rule allows this path to this client"));
        }
        if own.iter().any(|rule| rule.methods.iter().any(|each| each == method)) {
            return Ok(());
        }
        let mut methods: Vec<String> = own.iter().flat_map(|rule| rule.methods.clone()).collect();
        methods.sort();
        methods.dedup();
        Err(Refusal { status: 405, words: "no rule allows this method on this path to this client", methods })
    }
}

impl Allowed {
    /// A path that ends in a slash is everything below it; any other is that path alone.
    fn covers(&self, path: &str) -> bool {
        path == self.path || (self.path.ends_with('/') && path.starts_with(&self.path))
    }
}

/// Judges path and query, and returns the path.
///
/// Nothing is made normal here: what an upstream could read in another way than these rules do is refused. So there is one
/// spelling of a path, and it is forwarded as it was judged.
fn judge_path(target: &str) -> Result<&str, &'static str> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, query),
        None => (target, ""),
    };
    if !path.starts_with('/') {
        return Err("want a path that begins with a slash");
    }
    if target.len() > MAX_PATH_BYTES {
        return Err("found a path and query that are too long");
    }
    let (body, last) = path[1..].rsplit_once('/').unwrap_or(("", &path[1..]));
    let inner = if path[1..].contains('/') { body.split('/').collect() } else { Vec::new() };
    // The last part may be empty: that is a slash at the end.
    if inner.iter().any(|part| part.is_empty()) {
        return Err("found an empty part in the path");
    }
    if inner.into_iter().chain([last]).any(|part| part == "." || part == "..") {
        return Err("found a dot part in the path");
    }
    // A semicolon begins parameters for some, which hide a dot part.
    judge_characters(path, "-._~!$&'()*+,=:@/", false).ok_or("found a character or a code that no path may have")?;
    judge_characters(query, "-._~!$&'()*+,=:@/;?", true).ok_or("found a character or a code that no query may have")?;
    Ok(path)
}

/// Returns if a text has only letters, digits, these characters, and codes of others. In a path, codes are only for what could not
/// stand there as it is, and for nothing that ends a part or begins a code.
fn judge_characters(text: &str, plain: &str, is_query: bool) -> Option<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || plain.as_bytes().contains(&byte);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let code = text.get(at + 1..at + 3).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
            let byte = u8::from_str_radix(code, 16).ok()?;
            if byte.is_ascii_control() || (!is_query && (is_plain(byte) || b"\\%;?#".contains(&byte))) {
                return None;
            }
            at += 3;
        } else if is_plain(bytes[at]) {
            at += 1;
        } else {
            return None;
        }
    }
    Some(())
}

fn read_names(names: &[&str], into: &mut Vec<String>) -> Result<(), &'static str> {
    for name in names {
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err("want names of headers in lower case");
        }
        if OWN.contains(name) {
            return Err("found a header that is the gateway's own to say");
        }
        into.push(name.to_string());
    }
    Ok(())
}

fn is_authority(text: &str) -> bool {
    let name =
        |host: &str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    text.split_once(':').map_or(false, |(host, port)| name(host) && port.parse::<u16>().map_or(false, |port| port > 0))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(out)
}
