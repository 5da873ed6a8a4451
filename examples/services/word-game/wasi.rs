// SPDX-License-Identifier: Apache-2.0
//! What std for WASI does not have: random numbers, and waiting for several sockets.
use std::time::Duration;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn random_get(buffer: *mut u8, length: usize) -> u16;
    fn poll_oneoff(subscriptions: *const Subscription, events: *mut Event, count: usize, found: *mut usize) -> u16;
}

const CLOCK: u64 = 0;
const READABLE: u64 = 1;
const MONOTONIC: u32 = 1;

/// As WASI lays it out: the tag is its lowest byte, and the last three fields are a clock's.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Subscription {
    userdata: u64,
    tag: u64,
    clock_or_fd: u32,
    timeout_ns: u64,
    precision_ns: u64,
    flags: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    _fields: [u64; 4],
}

/// Returns a byte of the random numbers of the Keep.
pub fn random_byte() -> u8 {
    let mut byte = 0;
    // It writes one byte, into one.
    let failed = unsafe { random_get(&mut byte, 1) };
    assert!(failed == 0, "random_get: error {}", failed);
    byte
}

/// Waits until one of the descriptors can be read, or for so long.
pub fn wait(descriptors: &[u32], longest: Duration) {
    let clock = Subscription {
        tag: CLOCK,
        clock_or_fd: MONOTONIC,
        timeout_ns: longest.as_nanos() as u64,
        ..Subscription::default()
    };
    let sockets =
        descriptors.iter().map(|&fd| Subscription { tag: READABLE, clock_or_fd: fd, ..Subscription::default() });
    let subscriptions: Vec<Subscription> = std::iter::once(clock).chain(sockets).collect();
    let mut events = vec![Event::default(); subscriptions.len()];
    let mut found = 0;
    // There is room for an event of each subscription. What it says is not needed: everybody is asked then.
    let failed = unsafe { poll_oneoff(subscriptions.as_ptr(), events.as_mut_ptr(), subscriptions.len(), &mut found) };
    assert!(failed == 0, "poll_oneoff: error {}", failed);
}
