//! QR codes (ISO/IEC 18004), as an SVG picture for a page and as text for a terminal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcodegen::{Mask, QrCode, QrCodeEcc, QrSegment, Version};

/// Width of the quiet zone around the symbol, in modules (ISO/IEC 18004 §5.3.8).
const QUIET_ZONE: i32 = 4;

/// Data mask (ISO/IEC 18004 §7.8). Readers accept each of the eight masks. The search for the one with the lowest
/// penalty would take ten times as long as the rest of the encoding. A session's code is random, so its symbol is even
/// with any mask.
const MASK: u8 = 0;

/// The QR code of a text.
pub struct Picture(QrCode);

/// The error of a text that is too long for a QR code, which is more than about 2,300 bytes.
#[derive(Debug)]
pub struct TooLong;

impl Picture {
    /// Encodes `text` with error correction level M.
    ///
    /// # Errors
    /// Returns an error if the text is too long.
    pub fn of(text: &str) -> Result<Self, TooLong> {
        let segments = QrSegment::make_segments(text);
        let (least, most) = (Version::MIN, Version::MAX);
        QrCode::encode_segments_advanced(&segments, QrCodeEcc::Medium, least, most, Some(Mask::new(MASK)), false)
            .map(Self)
            .map_err(|_| TooLong)
    }

    /// Returns an SVG picture as a `data:` URL: dark on light, with the quiet zone, one unit for each module.
    #[must_use]
    pub fn data_url(&self) -> String {
        format!("data:image/svg+xml;base64,{}", STANDARD.encode(self.svg()))
    }

    /// Returns the symbol as lines of half-height blocks, for a terminal with a dark background.
    #[must_use]
    pub fn terminal(&self) -> String {
        let size = self.size();
        let mut text = String::new();
        for y in (0..size).step_by(2) {
            text.extend((0..size).map(|x| match (self.is_dark(x, y), y + 1 == size || self.is_dark(x, y + 1)) {
                (false, false) => '█',
                (false, true) => '▀',
                (true, false) => '▄',
                (true, true) => ' ',
            }));
            text.push('\n');
        }
        text
    }

    /// Returns the length of a side with the quiet zone, in modules.
    fn size(&self) -> i32 {
        self.0.size() + 2 * QUIET_ZONE
    }

    /// Returns whether a module is dark. Coordinates begin at the top left corner of the quiet zone.
    fn is_dark(&self, x: i32, y: i32) -> bool {
        self.0.get_module(x - QUIET_ZONE, y - QUIET_ZONE)
    }

    fn svg(&self) -> String {
        let size = self.size();
        let mut path = String::with_capacity(8 * 1024);
        for y in 0..size {
            let mut x = 0;
            while x < size {
                let start = x;
                while x < size && self.is_dark(x, y) {
                    x += 1;
                }
                if x > start {
                    for (command, number) in [("M", start), (" ", y), ("h", x - start), ("v1h-", x - start)] {
                        path.push_str(command);
                        path.push_str(itoa::Buffer::new().format(number));
                    }
                    path.push('z');
                }
                x += 1;
            }
        }
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path d="{path}"/></svg>"##
        )
    }
}
