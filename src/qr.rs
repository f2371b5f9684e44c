//! QR codes (ISO/IEC 18004), as a picture for a page and as text for a terminal.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use qrcode::render::unicode::Dense1x2;
use qrcode::types::QrError;
use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the symbol (ISO/IEC 18004 §5.3.8).
const QUIET_ZONE: usize = 4;

/// A QR code of a text.
pub struct Picture(QrCode);

impl Picture {
    /// # Errors
    /// The text is too long for a QR code (beyond about 2,300 bytes).
    pub fn of(text: &str) -> Result<Self, QrError> {
        QrCode::with_error_correction_level(text, EcLevel::M).map(Self)
    }

    /// An SVG as a `data:` URL: dark on light with its quiet zone, one path, one unit a module.
    #[must_use]
    pub fn data_url(&self) -> String {
        format!("data:image/svg+xml;base64,{}", STANDARD.encode(self.svg()))
    }

    /// Text of half-height blocks, for a dark terminal.
    #[must_use]
    pub fn terminal(&self) -> String {
        self.0.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build()
    }

    fn svg(&self) -> String {
        let width = self.0.width();
        let size = width + 2 * QUIET_ZONE;
        let mut path = String::new();
        for (y, row) in self.0.to_colors().chunks(width).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|a, b| a == b) {
                if run[0] == Color::Dark {
                    path.push_str(&format!("M{} {}h{}v1h-{}z", x + QUIET_ZONE, y + QUIET_ZONE, run.len(), run.len()));
                }
                x += run.len();
            }
        }
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/><path d="{path}"/></svg>"##
        )
    }
}
