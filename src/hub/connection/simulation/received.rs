//! Parsing of what a server has written, as each kind of browser parses it.

/// The messages that a browser has received.
#[derive(Debug, Default)]
pub(super) struct ReceivedMessages {
    pub(super) statuses: Vec<String>,
    pub(super) codes: u32,
    pub(super) is_closed: bool,
    pub(super) close_code: Option<u16>,
}

impl ReceivedMessages {
    fn add(&mut self, json: &[u8]) -> Result<(), String> {
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        match value["status"].as_str() {
            Some("rotated") => self.codes += 1,
            Some(status) => self.statuses.push(status.to_owned()),
            None => return Err(format!("no status in {value}")),
        }
        Ok(())
    }
}

/// Parses the frames of a server, which are short and unmasked. The last one may not have been written whole.
pub(super) fn frames(mut bytes: &[u8]) -> Result<ReceivedMessages, String> {
    let mut delivered = ReceivedMessages::default();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (126, _) => break,
            (length, rest) => (usize::from(*length), rest),
        };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if delivered.is_closed {
            return Err("it wrote on after its Close".to_owned());
        }
        match first {
            0x81 => delivered.add(payload)?,
            0x88 => {
                delivered.is_closed = true;
                delivered.close_code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
            0x82 | 0x89 | 0x8A => {}
            other => return Err(format!("a frame that begins with {other:#x}")),
        }
        bytes = rest;
    }
    Ok(delivered)
}

pub(super) fn events(bytes: &[u8]) -> Result<ReceivedMessages, String> {
    let mut delivered = ReceivedMessages::default();
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    for event in whole.split("\n\n").filter(|event| *event != ":" && !event.is_empty()) {
        if delivered.is_closed {
            return Err("an event after the last".to_owned());
        }
        if event.contains("event: close") {
            delivered.is_closed = true;
        } else {
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).ok_or("an event without data")?;
            delivered.add(data.as_bytes())?;
        }
    }
    Ok(delivered)
}

pub(super) fn poll_response(bytes: &[u8]) -> Result<ReceivedMessages, String> {
    let mut delivered = ReceivedMessages::default();
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(delivered) };
    delivered.is_closed = true;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or("no length")?;
    if head.starts_with("HTTP/1.1 200") && length == body.len().to_string() {
        delivered.add(body.as_bytes())?;
    }
    Ok(delivered)
}
