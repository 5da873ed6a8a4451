// SPDX-License-Identifier: Apache-2.0
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::wasi::io::FromRawFd;

const TEXT: &str = "Hello from Rust!\n";

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let length = TEXT.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{TEXT}")?;
    stream.shutdown(Shutdown::Both)
}

fn main() -> io::Result<()> {
    // Descriptor 3 is the socket that enarx opened; nothing else here owns it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(false)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        if let Err(error) = answer(stream) {
            eprintln!("{error}");
        }
    }
}
