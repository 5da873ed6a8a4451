// SPDX-License-Identifier: Apache-2.0
//! WASI 0.2 as far as the gateway needs it, by the canonical ABI: the one file that is unsafe. `wit` says the same in
//! types, and `wasm-tools` refuses a module that does not fit it.
//!
//! Each request has an instance of its own, which is gone afterwards: handles are dropped only where WASI asks for it.
use std::alloc::{alloc, handle_alloc_error, realloc, Layout};

type Handle = i32;
/// Names and values, in the order of their arrival. Names are in lower case.
pub type Headers = Vec<(String, Vec<u8>)>;

const READ_AT_ONCE: u64 = 64 << 10;
/// As much as blocking-write-and-flush takes.
const WRITE_AT_ONCE: usize = 4096;

/// Where a result of several words comes back. The largest is that of `future-incoming-response.get`.
#[repr(C, align(8))]
struct Room([u8; 64]);

impl Room {
    fn new() -> Self {
        Self([0; 64])
    }

    fn at(&mut self) -> *mut Room {
        self
    }

    fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    fn word(&self, at: usize) -> usize {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]) as usize
    }

    fn handle(&self, at: usize) -> Handle {
        self.word(at) as Handle
    }

    /// Takes a list of bytes that the host has written.
    fn bytes(&self, at: usize) -> Vec<u8> {
        unsafe { take(self.word(at) as *mut u8, self.word(at + 4)) }
    }

    /// Takes a list of pairs of lists of bytes.
    fn pairs(&self, at: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let words = self.word(at) as *const usize;
        let pair = |index: usize| unsafe {
            let word = |which: usize| *words.add(index * 4 + which);
            (take(word(0) as *mut u8, word(1)), take(word(2) as *mut u8, word(3)))
        };
        (0..self.word(at + 4)).map(pair).collect()
    }
}

/// Takes what `cabi_realloc` allocated and the host filled.
unsafe fn take(data: *mut u8, length: usize) -> Vec<u8> {
    if length == 0 {
        Vec::new()
    } else {
        Vec::from_raw_parts(data, length, length)
    }
}

/// What the host calls for the room of lists and strings.
#[export_name = "cabi_realloc"]
unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return align as *mut u8;
    }
    let layout = Layout::from_size_align_unchecked(size, align);
    let new = if old_size == 0 {
        alloc(layout)
    } else {
        realloc(old, Layout::from_size_align_unchecked(old_size, align), size)
    };
    if new.is_null() {
        handle_alloc_error(layout);
    }
    new
}

#[link(wasm_import_module = "wasi:cli/environment@0.2.0")]
extern "C" {
    #[link_name = "get-environment"]
    fn get_environment(out: *mut Room);
}

#[link(wasm_import_module = "wasi:cli/stderr@0.2.0")]
extern "C" {
    #[link_name = "get-stderr"]
    fn get_stderr() -> Handle;
}

#[link(wasm_import_module = "wasi:clocks/monotonic-clock@0.2.0")]
extern "C" {
    #[link_name = "now"]
    fn monotonic_now() -> u64;
}

#[link(wasm_import_module = "wasi:io/poll@0.2.0")]
extern "C" {
    #[link_name = "[method]pollable.block"]
    fn pollable_block(this: Handle);
}

#[link(wasm_import_module = "wasi:io/streams@0.2.0")]
extern "C" {
    #[link_name = "[method]input-stream.blocking-read"]
    fn stream_read(this: Handle, length: u64, out: *mut Room);
    #[link_name = "[method]output-stream.blocking-write-and-flush"]
    fn stream_write(this: Handle, data: *const u8, length: usize, out: *mut Room);
    #[link_name = "[resource-drop]output-stream"]
    fn stream_drop(this: Handle);
}

#[link(wasm_import_module = "wasi:http/types@0.2.0")]
extern "C" {
    #[link_name = "[static]fields.from-list"]
    fn fields_from_list(pairs: *const [usize; 4], count: usize, out: *mut Room);
    #[link_name = "[method]fields.entries"]
    fn fields_entries(this: Handle, out: *mut Room);
    #[link_name = "[method]incoming-request.method"]
    fn request_method(this: Handle, out: *mut Room);
    #[link_name = "[method]incoming-request.path-with-query"]
    fn request_path(this: Handle, out: *mut Room);
    #[link_name = "[method]incoming-request.headers"]
    fn request_headers(this: Handle) -> Handle;
    #[link_name = "[method]incoming-request.consume"]
    fn request_consume(this: Handle, out: *mut Room);
    #[link_name = "[method]incoming-response.status"]
    fn answer_status(this: Handle) -> i32;
    #[link_name = "[method]incoming-response.headers"]
    fn answer_headers(this: Handle) -> Handle;
    #[link_name = "[method]incoming-response.consume"]
    fn answer_consume(this: Handle, out: *mut Room);
    #[link_name = "[method]incoming-body.stream"]
    fn incoming_body_stream(this: Handle, out: *mut Room);
    #[link_name = "[constructor]outgoing-request"]
    fn new_request(headers: Handle) -> Handle;
    #[link_name = "[method]outgoing-request.set-method"]
    fn set_method(this: Handle, case: i32, name: *const u8, length: usize) -> i32;
    #[link_name = "[method]outgoing-request.set-path-with-query"]
    fn set_path(this: Handle, some: i32, path: *const u8, length: usize) -> i32;
    #[link_name = "[method]outgoing-request.set-scheme"]
    fn set_scheme(this: Handle, some: i32, case: i32, name: *const u8, length: usize) -> i32;
    #[link_name = "[method]outgoing-request.set-authority"]
    fn set_authority(this: Handle, some: i32, authority: *const u8, length: usize) -> i32;
    #[link_name = "[method]outgoing-request.body"]
    fn new_request_body(this: Handle, out: *mut Room);
    #[link_name = "[constructor]request-options"]
    fn new_options() -> Handle;
    #[link_name = "[method]request-options.set-connect-timeout"]
    fn set_connect_timeout(this: Handle, some: i32, duration: u64) -> i32;
    #[link_name = "[method]request-options.set-first-byte-timeout"]
    fn set_first_byte_timeout(this: Handle, some: i32, duration: u64) -> i32;
    #[link_name = "[method]request-options.set-between-bytes-timeout"]
    fn set_between_bytes_timeout(this: Handle, some: i32, duration: u64) -> i32;
    #[link_name = "[constructor]outgoing-response"]
    fn new_response(headers: Handle) -> Handle;
    #[link_name = "[method]outgoing-response.set-status-code"]
    fn set_status(this: Handle, status: i32) -> i32;
    #[link_name = "[method]outgoing-response.body"]
    fn new_response_body(this: Handle, out: *mut Room);
    #[link_name = "[static]response-outparam.set"]
    fn outparam_set(this: Handle, failed: i32, response: Handle, a: i32, b: u64, c: i32, d: i32, e: i32, f: i32);
    #[link_name = "[method]outgoing-body.write"]
    fn outgoing_body_write(this: Handle, out: *mut Room);
    #[link_name = "[static]outgoing-body.finish"]
    fn outgoing_body_finish(this: Handle, some: i32, trailers: Handle, out: *mut Room);
    #[link_name = "[method]future-incoming-response.subscribe"]
    fn future_subscribe(this: Handle) -> Handle;
    #[link_name = "[method]future-incoming-response.get"]
    fn future_get(this: Handle, out: *mut Room);
}

#[link(wasm_import_module = "wasi:http/outgoing-handler@0.2.0")]
extern "C" {
    #[link_name = "handle"]
    fn send(request: Handle, some: i32, options: Handle, out: *mut Room);
}

/// The methods that WASI names, in its order.
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Returns a variable of Enarx.toml, or nothing where there is none.
pub fn variable(name: &str) -> Option<String> {
    let mut room = Room::new();
    unsafe { get_environment(room.at()) };
    let found = room.pairs(0).into_iter().find(|(each, _)| each == name.as_bytes());
    found.and_then(|(_, value)| String::from_utf8(value).ok())
}

/// Writes a line to standard error, which is the tenant's.
pub fn complain(line: &str) {
    write(unsafe { get_stderr() }, format!("{}\n", line).as_bytes());
}

/// Returns nanoseconds, from whenever.
pub fn now() -> u64 {
    unsafe { monotonic_now() }
}

fn entries(fields: Handle) -> Headers {
    let mut room = Room::new();
    unsafe { fields_entries(fields, room.at()) };
    // The host has checked that names are tokens.
    room.pairs(0).into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).to_lowercase(), value)).collect()
}

/// Returns nothing where a name or a value can be none, or is the host's to say.
fn fields(headers: &[(String, Vec<u8>)]) -> Option<Handle> {
    let words: Vec<[usize; 4]> = headers
        .iter()
        .map(|(name, value)| [name.as_ptr() as usize, name.len(), value.as_ptr() as usize, value.len()])
        .collect();
    let mut room = Room::new();
    unsafe { fields_from_list(words.as_ptr(), words.len(), room.at()) };
    handle_in(&room)
}

fn handle_in(room: &Room) -> Option<Handle> {
    if room.byte(0) == 0 {
        Some(room.handle(4))
    } else {
        None
    }
}

/// Writes all of it, or as much as somebody takes; returns whether it was all.
fn write(stream: Handle, data: &[u8]) -> bool {
    data.chunks(WRITE_AT_ONCE).all(|piece| {
        let mut room = Room::new();
        unsafe { stream_write(stream, piece.as_ptr(), piece.len(), room.at()) };
        room.byte(0) == 0
    })
}

fn write_body(body: Handle, data: &[u8]) -> bool {
    let mut room = Room::new();
    unsafe { outgoing_body_write(body, room.at()) };
    let stream = match handle_in(&room) {
        Some(stream) => stream,
        None => return false,
    };
    let written = write(stream, data);
    unsafe {
        stream_drop(stream);
        outgoing_body_finish(body, 0, 0, room.at());
    }
    written && room.byte(0) == 0
}

pub enum BodyError {
    TooLarge,
    Late,
    Broken,
}

/// Reads a body to its end, up to a size and a time.
fn read_body(body: Handle, max_bytes: usize, until: u64) -> Result<Vec<u8>, BodyError> {
    let mut room = Room::new();
    unsafe { incoming_body_stream(body, room.at()) };
    let stream = handle_in(&room).ok_or(BodyError::Broken)?;
    let mut data = Vec::new();
    loop {
        let mut room = Room::new();
        unsafe { stream_read(stream, READ_AT_ONCE, room.at()) };
        match (room.byte(0), room.byte(4)) {
            (0, _) => data.extend(room.bytes(4)),
            (_, 1) => return Ok(data), // closed
            _ if now() >= until => return Err(BodyError::Late),
            _ => return Err(BodyError::Broken),
        }
        if data.len() > max_bytes {
            return Err(BodyError::TooLarge);
        }
        if now() >= until {
            return Err(BodyError::Late);
        }
    }
}

/// A request of a client.
pub struct Incoming {
    handle: Handle,
}

impl Incoming {
    pub fn new(handle: i32) -> Self {
        Self { handle }
    }

    /// Returns one of `METHODS`, or another word.
    pub fn method(&self) -> String {
        let mut room = Room::new();
        unsafe { request_method(self.handle, room.at()) };
        match METHODS.get(usize::from(room.byte(0))) {
            Some(name) => name.to_string(),
            None => String::from_utf8_lossy(&room.bytes(4)).into(),
        }
    }

    pub fn path_with_query(&self) -> Vec<u8> {
        let mut room = Room::new();
        unsafe { request_path(self.handle, room.at()) };
        if room.byte(0) == 0 {
            Vec::new()
        } else {
            room.bytes(4)
        }
    }

    pub fn headers(&self) -> Headers {
        entries(unsafe { request_headers(self.handle) })
    }

    pub fn body(&self, max_bytes: usize, until: u64) -> Result<Vec<u8>, BodyError> {
        let mut room = Room::new();
        unsafe { request_consume(self.handle, room.at()) };
        read_body(handle_in(&room).ok_or(BodyError::Broken)?, max_bytes, until)
    }
}

/// Answers a client. Whether he takes the answer is his affair.
pub fn answer(outparam: i32, status: u16, headers: &[(String, Vec<u8>)], body: &[u8]) {
    unsafe {
        let response = new_response(fields(headers).expect("headers that can be"));
        assert!(set_status(response, status.into()) == 0, "a status that can be");
        let mut room = Room::new();
        new_response_body(response, room.at());
        let outgoing = handle_in(&room).expect("the body of a new response");
        outparam_set(outparam, 0, response, 0, 0, 0, 0, 0, 0);
        write_body(outgoing, body);
    }
}

/// A request to the upstream.
pub struct Outgoing<'a> {
    pub method: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    pub headers: Headers,
    pub body: &'a [u8],
}

/// What the upstream answered.
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

pub enum SendError {
    Late,
    TooLarge,
    /// By the place of the error-code in WASI's list, or nothing where it broke later.
    Failed(Option<u8>),
}

/// Of DNS, of connecting, of reading, of writing, of the response.
const TIMEOUTS: [u8; 5] = [0, 8, 9, 10, 33];

fn failure(code: u8) -> SendError {
    if TIMEOUTS.contains(&code) {
        SendError::Late
    } else {
        SendError::Failed(Some(code))
    }
}

/// Sends a request by HTTPS and waits for the whole answer.
pub fn exchange(request: &Outgoing, timeout_ns: u64, max_bytes: usize) -> Result<Answer, SendError> {
    let until = now() + timeout_ns;
    let broken = || SendError::Failed(None);
    let case = METHODS.iter().position(|name| *name == request.method).ok_or_else(broken)?;
    let mut room = Room::new();
    let (future, body) = unsafe {
        let new = new_request(fields(&request.headers).ok_or_else(broken)?);
        let https = 1;
        let refused = set_method(new, case as i32, std::ptr::null(), 0)
            + set_scheme(new, 1, https, std::ptr::null(), 0)
            + set_authority(new, 1, request.authority.as_ptr(), request.authority.len())
            + set_path(new, 1, request.path.as_ptr(), request.path.len());
        let options = new_options();
        let late = set_connect_timeout(options, 1, timeout_ns)
            + set_first_byte_timeout(options, 1, timeout_ns)
            + set_between_bytes_timeout(options, 1, timeout_ns);
        if refused + late != 0 {
            return Err(broken());
        }
        let mut body = None;
        if !request.body.is_empty() {
            new_request_body(new, room.at());
            body = handle_in(&room);
        }
        send(new, 1, options, room.at());
        if room.byte(0) != 0 {
            return Err(failure(room.byte(8)));
        }
        (room.handle(8), body)
    };
    if let Some(body) = body {
        // What fails here shows in the answer, or in that there is none.
        write_body(body, request.body);
    }
    unsafe {
        pollable_block(future_subscribe(future));
        future_get(future, room.at());
    }
    // Of the option, of the result that says whether it was taken before, and of the response's own.
    match (room.byte(0), room.byte(8), room.byte(16)) {
        (1, 0, 0) => {}
        (1, 0, _) => return Err(failure(room.byte(24))),
        _ => return Err(broken()),
    }
    let response = room.handle(24);
    let (status, headers) = unsafe { (answer_status(response) as u16, entries(answer_headers(response))) };
    unsafe { answer_consume(response, room.at()) };
    let body = read_body(handle_in(&room).ok_or_else(broken)?, max_bytes, until).map_err(|error| match error {
        BodyError::TooLarge => SendError::TooLarge,
        BodyError::Late => SendError::Late,
        BodyError::Broken => SendError::Failed(None),
    })?;
    Ok(Answer { status, headers, body })
}
