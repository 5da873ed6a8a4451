// SPDX-License-Identifier: Apache-2.0
//! Forwards the requests that its rules allow to one upstream, with a key that its clients do not have, and refuses all others.
//!
//! A component: `wasi:http` calls `handle` for each request. TLS, in both directions, and the framing of messages are the
//! Keep's; what is here is who may do what, which headers pass, and that the key stays where it is.
use rules::{Refusal, Rules, CLIENT_HEADER};
use wasi::{Answer, BodyError, Headers, Incoming, Outgoing, SendError};

mod rules;
mod sha256;
mod wasi;

const SECOND_NS: u64 = 1_000_000_000;
/// A shorter one could be in an answer by chance.
const MIN_KEY_BYTES: usize = 16;

#[export_name = "wasi:http/incoming-handler@0.2.0#handle"]
extern "C" fn handle(request: i32, outparam: i32) {
    let forwarded = serve(&Incoming::new(request));
    match forwarded {
        Ok(answer) => wasi::answer(outparam, answer.status, &answer.headers, &answer.body),
        Err(refusal) => refuse(outparam, &refusal),
    }
}

fn refuse(outparam: i32, refusal: &Refusal) {
    // The words are our own, without quotes in them.
    let body = format!("{{\"error\":\"{}\"}}\n", refusal.words);
    let mut headers =
        vec![header("content-type", "application/json"), header("content-length", &body.len().to_string())];
    match refusal.status {
        401 => headers.push(header("www-authenticate", "Bearer")),
        405 => headers.push(header("allow", &refusal.methods.join(", "))),
        _ => {}
    }
    wasi::answer(outparam, refusal.status, &headers, body.as_bytes());
}

fn refusal(status: u16, words: &'static str) -> Refusal {
    Refusal { status, words, methods: Vec::new() }
}

fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.into(), value.as_bytes().to_vec())
}

/// Reads rules and key. What is wrong is said to the tenant alone, and then nothing is forwarded.
fn configured() -> Result<(Rules, String), Refusal> {
    let read = Rules::parse(&wasi::variable("RULES").unwrap_or_default()).and_then(|rules| {
        let key = wasi::variable("UPSTREAM_KEY").unwrap_or_default();
        let usable = key.len() >= MIN_KEY_BYTES && key.bytes().all(|byte| byte.is_ascii_graphic());
        if usable {
            Ok((rules, key))
        } else {
            Err("UPSTREAM_KEY: want 16 or more visible ASCII characters".into())
        }
    });
    read.map_err(|wrong| {
        wasi::complain(&format!("gateway: cannot use the rules: {}", wrong));
        refusal(500, "the gateway's rules cannot be used, so nothing is forwarded")
    })
}

fn serve(request: &Incoming) -> Result<Answer, Refusal> {
    let (rules, key) = configured()?;
    let headers = request.headers();
    let client = rules.who(&values(&headers, "authorization"))?;
    let method = request.method();
    let target = request.path_with_query();
    let target = std::str::from_utf8(&target).map_err(|_| refusal(400, "want a path in ASCII"))?;
    rules.judge(client, &method, target)?;
    let until = wasi::now() + rules.timeout_s * SECOND_NS;
    let body = request.body(rules.max_body_bytes, until).map_err(|error| match error {
        BodyError::TooLarge => refusal(413, "the body is too large"),
        BodyError::Late => refusal(408, "the body did not come in time"),
        BodyError::Broken => refusal(400, "the body is not whole"),
    })?;
    if !body.is_empty() && (method == "GET" || method == "HEAD") {
        // It means nothing: some ignore it, and take it for the next request.
        return Err(refusal(400, "found a body where there can be none"));
    }

    let mut sent: Headers = headers.iter().filter(|(name, _)| rules.passed.contains(name)).cloned().collect();
    sent.retain(|(name, _)| !rules.added.iter().any(|(added, _)| added == name));
    sent.extend(rules.added.iter().map(|(name, value)| header(name, value)));
    sent.push(header(CLIENT_HEADER, client));
    sent.push(header("authorization", &format!("Bearer {}", key)));
    // So that an answer can be searched for the key.
    sent.push(header("accept-encoding", "identity"));
    if !body.is_empty() {
        sent.push(header("content-length", &body.len().to_string()));
    }
    let outgoing = Outgoing { method: &method, authority: &rules.upstream, path: target, headers: sent, body: &body };
    let exchanged = wasi::exchange(&outgoing, rules.timeout_s * SECOND_NS, rules.max_answer_bytes);
    let mut answer = returned(exchanged.map_err(failed)?, &rules, &key)?;
    if answer.status != 204 && answer.status != 304 && method != "HEAD" {
        answer.headers.push(header("content-length", &answer.body.len().to_string()));
    }
    Ok(answer)
}

fn failed(error: SendError) -> Refusal {
    match error {
        SendError::Late => refusal(504, "the upstream did not answer in time"),
        SendError::TooLarge => refusal(502, "the upstream's answer is too large"),
        SendError::Failed(code) => {
            let how = code.map_or("while it answered".into(), |code| format!("with error {} of wasi:http", code));
            wasi::complain(&format!("gateway: the upstream failed {}", how));
            refusal(502, "the upstream failed")
        }
    }
}

fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a [u8]> {
    headers.iter().filter(|(each, _)| each == name).map(|(_, value)| value.as_slice()).collect()
}

/// Returns what the client may see of an answer.
fn returned(answer: Answer, rules: &Rules, key: &str) -> Result<Answer, Refusal> {
    if answer.status == 401 || answer.status == 407 {
        // It is the gateway's key that is refused there, not the client's.
        wasi::complain("gateway: the upstream refuses the key");
        return Err(refusal(502, "the upstream refuses the gateway"));
    }
    if values(&answer.headers, "content-encoding").iter().any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(refusal(502, "the upstream's answer is encoded"));
    }
    let headers: Headers = answer.headers.into_iter().filter(|(name, _)| rules.returned.contains(name)).collect();
    if headers.iter().any(|(_, value)| has(value, key)) || has(&answer.body, key) {
        wasi::complain("gateway: the upstream's answer has the key in it");
        return Err(refusal(502, "the upstream's answer has something that is not for clients"));
    }
    Ok(Answer { status: answer.status, headers, body: answer.body })
}

fn has(bytes: &[u8], key: &str) -> bool {
    bytes.windows(key.len()).any(|window| window == key.as_bytes())
}
