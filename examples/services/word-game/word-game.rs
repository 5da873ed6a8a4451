// SPDX-License-Identifier: Apache-2.0
//! A game of one hidden word for everybody who plays. The word is chosen here, by the random numbers of the Keep, and no
//! answer holds it but to whoever guessed it; whoever attacks the machine is invited to find it without guessing.
//!
//! Serves HTTP on descriptor 3, which is the socket of Enarx.toml, and knows nothing of Keeps or TLS.
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::wasi::io::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

mod wasi;
mod words;

use words::{LETTERS, WORDS};

const MAX_REQUEST_BYTES: usize = 4096;
const MAX_PLAYERS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// So many guesses in so long, of everybody together: a Keep cannot tell who connects.
const GUESSES: usize = 20;
const PERIOD: Duration = Duration::from_secs(4);
/// Answers to guesses that count have one length, so that it does not tell a hit from a miss.
const ANSWER_LETTERS: usize = 64;

const HELP: &str = "\
A word of six letters is hidden in this Keep. Guess it:

    curl --data word=planet https://THIS-SERVICE/guess

The answer has a sign for each letter: + is in its place, ? is elsewhere, . is not in the word.
Everybody plays for the same word. When it is guessed, another one is hidden.
";

struct Game {
    /// Where the hidden word is in `WORDS`. It is written nowhere else.
    hidden: u8,
    round: u64,
    guesses: VecDeque<Instant>,
}

impl Game {
    fn new() -> Self {
        Self { hidden: wasi::random_byte(), round: 1, guesses: VecDeque::new() }
    }

    /// Takes a guess; returns status and body.
    fn guess(&mut self, guess: &str, now: Instant) -> (&'static str, String) {
        let letters = guess.to_ascii_lowercase();
        if letters.len() != LETTERS || !letters.bytes().all(|letter| letter.is_ascii_lowercase()) {
            return ("400 Bad Request", "want word= and six letters from a to z\n".into());
        }
        while self.guesses.front().map_or(false, |&past| now.duration_since(past) >= PERIOD) {
            self.guesses.pop_front();
        }
        if self.guesses.len() >= GUESSES {
            return ("429 Too Many Requests", "too many guesses: wait some seconds\n".into());
        }
        self.guesses.push_back(now);
        let hints = hints(letters.as_bytes(), WORDS[usize::from(self.hidden)].as_bytes());
        let mut said = format!("round {}: {}", self.round, hints);
        if hints.bytes().all(|hint| hint == b'+') {
            said += " guessed! another word is hidden";
            self.hidden = wasi::random_byte();
            self.round += 1;
        }
        ("200 OK", format!("{:<width$}\n", said, width = ANSWER_LETTERS - 1))
    }
}

/// Returns a sign for each letter. A letter is "elsewhere" only as often as the word has it beyond those in their place.
fn hints(guess: &[u8], word: &[u8]) -> String {
    let mut left: Vec<u8> = (0..LETTERS).filter(|&at| guess[at] != word[at]).map(|at| word[at]).collect();
    let mut sign = |at: usize| {
        if guess[at] == word[at] {
            return '+';
        }
        match left.iter().position(|&letter| letter == guess[at]) {
            Some(found) => {
                left.swap_remove(found);
                '?'
            }
            None => '.',
        }
    };
    (0..LETTERS).map(|at| sign(at)).collect()
}

struct Player {
    stream: TcpStream,
    request: Vec<u8>,
    until: Instant,
}

impl Player {
    /// Reads what has come; returns an answer once there is one, or an error when there will be none.
    fn serve(&mut self, game: &mut Game, now: Instant) -> io::Result<Option<(&'static str, String)>> {
        let mut piece = [0; 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.request.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.request.len() > MAX_REQUEST_BYTES {
                return Ok(Some(("413 Payload Too Large", "the request is too large\n".into())));
            }
            if let Some(answer) = answer(&self.request, game, now) {
                return Ok(Some(answer));
            }
        }
    }

    /// Answers and ends the connection. The answer is shorter than what a socket holds, so nobody waits for a slow reader.
    fn finish(mut self, status: &str, body: &str) {
        let length = body.len();
        let fields = format!("Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close");
        let _ = self.stream.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n{body}").as_bytes());
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Returns the answer to a request, or None while some of it is missing.
fn answer(request: &[u8], game: &mut Game, now: Instant) -> Option<(&'static str, String)> {
    let end = request.windows(4).position(|four| four == b"\r\n\r\n")?;
    let bad = Some(("400 Bad Request", "want a request of HTTP/1.1\n".to_string()));
    let head = match std::str::from_utf8(&request[..end]) {
        Ok(head) => head,
        Err(_) => return bad,
    };
    let mut lines = head.split("\r\n");
    let line: Vec<&str> = lines.next()?.split(' ').collect();
    let lengths: Vec<&str> = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim())
        .collect();
    match line[..] {
        ["GET", "/", _] => Some(("200 OK", HELP.into())),
        ["POST", "/guess", _] => {
            let length = match lengths[..] {
                [one] => one.parse::<usize>().unwrap_or(usize::MAX),
                _ => return bad,
            };
            if length > MAX_REQUEST_BYTES {
                return Some(("413 Payload Too Large", "the request is too large\n".into()));
            }
            let body = request.get(end + 4..end + 4 + length)?;
            let guess = std::str::from_utf8(body).ok().and_then(|body| body.strip_prefix("word="));
            Some(game.guess(guess.unwrap_or(""), now))
        }
        [_, "/" | "/guess", _] => Some(("405 Method Not Allowed", "want GET / or POST /guess\n".into())),
        [_, _, _] => Some(("404 Not Found", "want GET / or POST /guess\n".into())),
        _ => bad,
    }
}

fn main() -> io::Result<()> {
    // Descriptor 3 is the listener that the Keep opened; nothing else here owns it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    listener.set_nonblocking(true)?;
    let mut game = Game::new();
    let mut players: Vec<Player> = Vec::new();
    println!("ready");
    loop {
        let mut waited_for: Vec<u32> = players.iter().map(|player| player.stream.as_raw_fd() as u32).collect();
        if players.len() < MAX_PLAYERS {
            waited_for.push(listener.as_raw_fd() as u32);
        }
        wasi::wait(&waited_for, Duration::from_secs(1));
        let now = Instant::now();
        while players.len() < MAX_PLAYERS {
            match listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        players.push(Player { stream, request: Vec::new(), until: now + PATIENCE });
                    }
                }
                Err(_) => break, // Nobody else, or one who has gone again.
            }
        }
        for mut player in std::mem::take(&mut players) {
            match player.serve(&mut game, now) {
                Ok(Some((status, body))) => player.finish(status, &body),
                Ok(None) if now < player.until => players.push(player),
                Ok(None) | Err(_) => {}
            }
        }
    }
}
