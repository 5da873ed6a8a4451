// SPDX-License-Identifier: Apache-2.0
//! Echoes every connection of the preopened listener on descriptor 3, many at once, on mio's poll.
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::wasi::io::FromRawFd;

const LISTENER: Token = Token(0);

struct Peer {
    stream: TcpStream,
    /// What was read and could not be written yet.
    pending: Vec<u8>,
}

impl Peer {
    /// Reads and writes until either would block. False when the peer is gone.
    fn serve(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            while !self.pending.is_empty() {
                match self.stream.write(&self.pending) {
                    Ok(n) => drop(self.pending.drain(..n)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(e) => return Err(e),
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }
}

fn main() -> io::Result<()> {
    // Descriptor 3 is the listener that Enarx opened; nothing else here owns it.
    let listener = unsafe { std::net::TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(128);
    let mut peers = HashMap::new();
    let mut next = 1;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("ready");
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                loop {
                    match listener.accept() {
                        Ok((mut stream, _)) => {
                            let token = Token(next);
                            next += 1;
                            poll.registry().register(&mut stream, token, Interest::READABLE)?;
                            peers.insert(token, Peer { stream, pending: Vec::new() });
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => return Err(e),
                    }
                }
            } else if let Some(peer) = peers.get_mut(&event.token()) {
                if peer.serve().unwrap_or(false) {
                    let wanted = if peer.pending.is_empty() {
                        Interest::READABLE
                    } else {
                        Interest::READABLE | Interest::WRITABLE
                    };
                    poll.registry().reregister(&mut peer.stream, event.token(), wanted)?;
                } else if let Some(mut peer) = peers.remove(&event.token()) {
                    let _ = poll.registry().deregister(&mut peer.stream);
                }
            }
        }
    }
}
