// SPDX-License-Identifier: Apache-2.0
use std::io::{self, Read};
use std::{env, fs, process};

fn main() -> io::Result<()> {
    println!("Hello from Rust!");

    let arguments: Vec<String> = env::args().skip(1).collect();
    let listed: String = arguments.iter().map(|argument| format!(" {argument}")).collect();
    println!("arguments:{listed}");

    println!("NAME={}", env::var("NAME").unwrap_or_default());

    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    let lines = input.iter().filter(|&&byte| byte == b'\n').count();
    println!("stdin: {} bytes, {lines} lines", input.len());

    let poem = fs::read_to_string("/data/poem.txt")?;
    println!("poem: {}", poem.lines().next().unwrap_or_default());

    if arguments.iter().any(|argument| argument == "fail") {
        process::exit(3);
    }
    Ok(())
}
