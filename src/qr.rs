//! QR codes (ISO/IEC 18004), as a picture for a page and as text for a terminal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fast_qr::{ECL, QRBuilder, QRCode};

/// Light modules around the symbol (ISO/IEC 18004 §5.3.8).
const QUIET_ZONE: usize = 4;

/// A QR code of a text.
pub struct Picture(QRCode);

/// The text is too long for a QR code (beyond about 2,300 bytes).
#[derive(Debug)]
pub struct TooLong;

impl Picture {
    /// # Errors
    /// The text is too long.
    pub fn of(text: &str) -> Result<Self, TooLong> {
        QRBuilder::new(text).ecl(ECL::M).build().map(Self).map_err(|_| TooLong)
    }

    /// An SVG as a `data:` URL: dark on light with its quiet zone, one path, one unit a module.
    #[must_use]
    pub fn data_url(&self) -> String {
        format!("data:image/svg+xml;base64,{}", STANDARD.encode(self.svg()))
    }

    /// Text of half-height blocks, for a dark terminal.
    #[must_use]
    pub fn terminal(&self) -> String {
        let size = self.0.size + 2 * QUIET_ZONE;
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

    /// With the quiet zone.
    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inside = QUIET_ZONE..QUIET_ZONE + self.0.size;
        inside.contains(&x) && inside.contains(&y) && self.0[y - QUIET_ZONE][x - QUIET_ZONE].value()
    }

    fn svg(&self) -> String {
        let size = self.0.size + 2 * QUIET_ZONE;
        let mut path = String::with_capacity(8 * 1024);
        for y in 0..self.0.size {
            let mut x = QUIET_ZONE;
            for run in self.0[y].chunk_by(|a, b| a.value() == b.value()) {
                if run[0].value() {
                    for (command, number) in [("M", x), (" ", y + QUIET_ZONE), ("h", run.len()), ("v1h-", run.len())] {
                        path.push_str(command);
                        path.push_str(itoa::Buffer::new().format(number));
                    }
                    path.push('z');
                }
                x += run.len();
            }
        }
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path d="{path}"/></svg>"##
        )
    }
}
