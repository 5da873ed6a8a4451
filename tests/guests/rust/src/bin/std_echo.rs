// SPDX-License-Identifier: Apache-2.0
//! Echoes connections of the preopened listener on descriptor 3, one after the other, with the standard library only.
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::wasi::io::FromRawFd;

fn main() -> io::Result<()> {
    // Descriptor 3 is the listener that Enarx opened; nothing else here owns it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(false)?;
    println!("ready");
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => stream.write_all(&buffer[..n])?,
            }
        }
    }
}
