//! A WebSocket echo server on `qrlogin::websocket` and blocking sockets, with a thread for each connection.
//!
//! `cargo run --example echo` prints the server's address. The server sends each message back, answers pings, and
//! completes the closing handshake. `scripts/examples` runs it with a client.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use http::Version;
use qrlogin::websocket::{Decoder, Handshake, Incoming, Kind, Opcode, Violation, close_payload, frame};

/// Maximum length of a request head and of a message, in bytes.
const MAX_BYTES: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ws://{}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("a connection has ended: {error}");
            }
        });
    }
    Ok(())
}

/// Serves a connection until it is closed.
fn serve(mut socket: TcpStream) -> Result<(), Box<dyn Error>> {
    let (handshake, mut received) = read_handshake(&mut socket)?;
    let fields: String = handshake.response_fields().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(socket, "HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n")?;
    let mut decoder = Decoder::new(u32::try_from(MAX_BYTES)?);
    let (mut message, mut out, mut buffer) = (Vec::new(), Vec::new(), vec![0; MAX_BYTES]);
    loop {
        let is_open = answer(&mut decoder, &mut received, &mut message, &mut out);
        socket.write_all(&out)?;
        out.clear();
        let length = if is_open { socket.read(&mut buffer)? } else { 0 };
        if length == 0 {
            return Ok(());
        }
        received = buffer[..length].to_vec();
    }
}

/// Appends the answers to the received bytes to `out`. Returns whether the connection remains open.
fn answer(decoder: &mut Decoder, received: &mut [u8], message: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    let mut input = received;
    loop {
        match decoder.decode(&mut input) {
            Ok(None) => return true,
            Ok(Some(Incoming::Data { kind, payload, is_last })) => {
                message.extend_from_slice(payload);
                if is_last {
                    let opcode = if kind == Kind::Text { Opcode::Text } else { Opcode::Binary };
                    frame(out, opcode, &std::mem::take(message));
                }
            }
            Ok(Some(Incoming::Ping(payload))) => frame(out, Opcode::Pong, payload),
            Ok(Some(Incoming::Pong(_))) => {}
            Ok(Some(Incoming::Close(code))) => {
                let payload = code.map(|code| close_payload(code, "")).unwrap_or_default();
                frame(out, Opcode::Close, &payload);
                return false;
            }
            Err(violation) => {
                let code = match violation {
                    Violation::Protocol => 1002,
                    Violation::InvalidText => 1007,
                    Violation::TooBig => 1009,
                };
                frame(out, Opcode::Close, &close_payload(code, ""));
                return false;
            }
        }
    }
}

/// Reads the opening handshake. Returns it with the bytes that follow it.
fn read_handshake(socket: &mut TcpStream) -> Result<(Handshake, Vec<u8>), Box<dyn Error>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = socket.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..length]);
        let mut parsed = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut parsed);
        if let httparse::Status::Complete(head_bytes) = request.parse(&bytes)? {
            if request.method != Some("GET") {
                return Err("the request is no GET".into());
            }
            let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
            let handshake = Handshake::of(version, &*request.headers)?;
            return Ok((handshake, bytes.split_off(head_bytes)));
        }
        if length == 0 || bytes.len() > MAX_BYTES {
            return Err("the request head is incomplete or too long".into());
        }
    }
}
