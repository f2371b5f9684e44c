//! QR codes (ISO/IEC 18004), as a picture for a page and as text for a terminal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcodegen::{Mask, QrCode, QrCodeEcc, QrSegment, Version};

/// Light modules around the symbol (ISO/IEC 18004 §5.3.8).
const QUIET_ZONE: i32 = 4;

/// Of the eight masks (ISO/IEC 18004 §7.8) a reader takes any. Finding the one that looks best takes ten times as long as
/// all the rest, and of the random characters of a code each makes an even pattern.
const MASK: u8 = 0;

/// A QR code of a text.
pub struct Picture(QrCode);

/// The text is too long for a QR code (beyond about 2,300 bytes).
#[derive(Debug)]
pub struct TooLong;

impl Picture {
    /// # Errors
    /// The text is too long.
    pub fn of(text: &str) -> Result<Self, TooLong> {
        let segments = QrSegment::make_segments(text);
        let (least, most) = (Version::MIN, Version::MAX);
        QrCode::encode_segments_advanced(&segments, QrCodeEcc::Medium, least, most, Some(Mask::new(MASK)), false)
            .map(Self)
            .map_err(|_| TooLong)
    }

    /// An SVG as a `data:` URL: dark on light with its quiet zone, one path, one unit a module.
    #[must_use]
    pub fn data_url(&self) -> String {
        format!("data:image/svg+xml;base64,{}", STANDARD.encode(self.svg()))
    }

    /// Text of half-height blocks, for a dark terminal.
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

    /// A symbol's side, with the quiet zone.
    fn size(&self) -> i32 {
        self.0.size() + 2 * QUIET_ZONE
    }

    /// Counted from the corner of the quiet zone.
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
