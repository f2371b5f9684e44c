//! A public key of app tokens, and the algorithms that are accepted with it: those of its type (RFC 7518 §3.1, RFC 8037
//! §3.1), or the one that its `alg` names. Never an HMAC, whose key would be no secret (RFC 8725 §3.1, §3.5).

use std::str::FromStr as _;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::InvalidToken;

const RSA: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
const P256: &[&str] = &["ES256"];
const P384: &[&str] = &["ES384"];
const P521: &[&str] = &["ES512"];
/// RFC 9864 §2.2 has a name of its own for what RFC 8037 calls EdDSA.
const ED25519_NAMES: &[&str] = &["EdDSA", "Ed25519"];
/// RFC 7518 §3.3, and the most that is verified.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What stands before the key in a SubjectPublicKeyInfo (RFC 5480 §2, RFC 8410 §4) of this type; the rest is an
/// uncompressed point, or the key itself.
const SPKI_P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
    0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const SPKI_P384: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x05, 0x2B, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00,
];
const SPKI_P521: &[u8] = &[
    0x30, 0x81, 0x9B, 0x30, 0x10, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x05, 0x2B, 0x81, 0x04,
    0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];
const SPKI_ED25519: &[u8] = &[0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];

/// See the module.
pub(super) struct Key {
    /// Its `kid`.
    pub(super) id: Option<String>,
    algorithms: Vec<&'static str>,
    verifier: Verifier,
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Library(DecodingKey),
    /// What the library does not know.
    Raw(&'static dyn VerificationAlgorithm, Vec<u8>),
}

/// Why a published key is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub(super) enum Unusable {
    #[error("it is no JWK")]
    Malformed,
    #[error("its use is not sig")]
    Use,
    #[error("its key_ops do not include verify")]
    Operations,
    #[error("its kty is not RSA, EC or OKP")]
    Type,
    #[error("its crv is not P-256, P-384, P-521 or Ed25519")]
    Curve,
    #[error("its alg does not go with its type")]
    Algorithm,
    #[error("it has fewer than 2,048 bits, or more than 8,192")]
    Bits,
}

/// The members that are looked at (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Key {
    /// The key of a JWK (RFC 7517).
    pub(super) fn of_jwk(published: &Value) -> Result<Self, Unusable> {
        let jwk = Jwk::deserialize(published).map_err(|_| Unusable::Malformed)?;
        if jwk.r#use.as_ref().is_some_and(|r#use| r#use != "sig") {
            return Err(Unusable::Use);
        }
        if jwk.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err(Unusable::Operations);
        }
        let malformed = |_| Unusable::Malformed;
        let library = |key: Result<DecodingKey, _>| key.map(Verifier::Library).map_err(malformed);
        let (family, verifier) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (Some(length), Some(_)) = (bits(&jwk.n), bits(&jwk.e)) else { return Err(Unusable::Malformed) };
                if !RSA_BITS.contains(&length) {
                    return Err(Unusable::Bits);
                }
                (RSA, library(DecodingKey::from_rsa_components(&jwk.n, &jwk.e))?)
            }
            ("EC", Some("P-256")) => (P256, library(DecodingKey::from_ec_components(&jwk.x, &jwk.y))?),
            ("EC", Some("P-384")) => (P384, library(DecodingKey::from_ec_components(&jwk.x, &jwk.y))?),
            ("EC", Some("P-521")) => {
                let (x, y) = (decoded(&jwk.x).ok_or(Unusable::Malformed)?, decoded(&jwk.y).ok_or(Unusable::Malformed)?);
                (P521, Verifier::Raw(&ECDSA_P521_SHA512_FIXED, [&[0x04], &*x, &*y].concat()))
            }
            ("OKP", Some("Ed25519")) => {
                (ED25519_NAMES, Verifier::Raw(&ED25519, decoded(&jwk.x).ok_or(Unusable::Malformed)?))
            }
            ("EC" | "OKP", _) => return Err(Unusable::Curve),
            _ => return Err(Unusable::Type),
        };
        let algorithms = match &jwk.alg {
            None => family.to_vec(),
            Some(_) if family == ED25519_NAMES && ED25519_NAMES.iter().any(|name| jwk.alg.as_deref() == Some(name)) => {
                family.to_vec()
            }
            Some(alg) => family.iter().filter(|name| *name == alg).copied().collect(),
        };
        if algorithms.is_empty() {
            return Err(Unusable::Algorithm);
        }
        Ok(Self { id: jwk.kid, algorithms, verifier })
    }

    /// The public key in a PEM file: RSA, P-256, P-384, P-521 or Ed25519.
    pub(super) fn of_pem(text: &[u8]) -> Option<Self> {
        let with =
            |algorithms: &[&'static str], verifier| Some(Self { id: None, algorithms: algorithms.to_vec(), verifier });
        if let Ok(key) = DecodingKey::from_rsa_pem(text) {
            return with(RSA, Verifier::Library(key));
        }
        let der = pem::parse(text).ok()?.into_contents();
        let after = |prefix: &[u8]| der.strip_prefix(prefix).map(<[u8]>::to_vec);
        let of_curve = |prefix| Some(Verifier::Library(DecodingKey::from_ec_der(&after(prefix)?)));
        if let Some(verifier) = of_curve(SPKI_P256) {
            return with(P256, verifier);
        }
        if let Some(verifier) = of_curve(SPKI_P384) {
            return with(P384, verifier);
        }
        if let Some(point) = after(SPKI_P521) {
            return with(P521, Verifier::Raw(&ECDSA_P521_SHA512_FIXED, point));
        }
        with(ED25519_NAMES, Verifier::Raw(&ED25519, after(SPKI_ED25519)?))
    }

    /// The secret of tokens signed with HS256.
    pub(super) fn of_secret(secret: &[u8]) -> Self {
        let verifier = Verifier::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        Self { id: None, algorithms: vec!["HS256"], verifier }
    }

    /// Whether tokens of this `alg` are verified with it.
    pub(super) fn fits(&self, algorithm: &str) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The claims of a token that is signed with this key and this `alg`.
    pub(super) fn verify(&self, token: &str, algorithm: &str) -> Result<Map<String, Value>, InvalidToken> {
        if !self.fits(algorithm) {
            return Err(InvalidToken::Signature);
        }
        // RFC 7515 §5.2. The header has been read by the caller.
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(InvalidToken::Malformed)?;
        let (signed, payload) = (decode(signature)?, decode(payload)?);
        let is_signed = match &self.verifier {
            Verifier::Secret(key) => hmac::verify(key, message.as_bytes(), &signed).is_ok(),
            Verifier::Library(key) => {
                let algorithm = Algorithm::from_str(algorithm).map_err(|_| InvalidToken::Signature)?;
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
            }
            Verifier::Raw(algorithm, key) => {
                UnparsedPublicKey::new(*algorithm, key).verify(message.as_bytes(), &signed).is_ok()
            }
        };
        if !is_signed {
            return Err(InvalidToken::Signature);
        }
        serde_json::from_slice(&payload).map_err(|_| InvalidToken::Malformed)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, InvalidToken> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Malformed)
}

/// Padding is not permitted (RFC 7515 §2), and met all the same.
fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok().filter(|bytes| !bytes.is_empty())
}

/// The length of a big-endian number.
fn bits(number: &str) -> Option<usize> {
    let bytes = decoded(number)?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some((bytes.len() - first) * 8 - bytes[first].leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Of 2,048 bits.
    fn modulus() -> String {
        URL_SAFE_NO_PAD.encode([0x80; 256])
    }

    fn refused(jwk: Value) -> Option<Unusable> {
        Key::of_jwk(&jwk).err()
    }

    #[test]
    fn a_key_has_the_bits_of_its_modulus_from_the_first_that_is_set() {
        for (bytes, expected) in [
            (&[0x01, 0x00, 0x01][..], Some(17)),
            (&[0x80], Some(8)),
            (&[0x00, 0x00, 0x7F, 0xFF], Some(15)),
            (&[0x00], None),
            (&[], None),
        ] {
            assert_eq!(bits(&URL_SAFE_NO_PAD.encode(bytes)), expected, "{bytes:?}");
        }
        assert_eq!(bits("?"), None);
    }

    #[test]
    fn both_names_of_ed25519_pin_the_same_algorithm_and_none_of_another_type() {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        for alg in [json!("EdDSA"), json!("Ed25519"), json!(null)] {
            let key = Key::of_jwk(&json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": alg })).unwrap();
            assert!(key.fits("EdDSA") && key.fits("Ed25519") && !key.fits("ES256"), "{alg}");
        }
        assert_eq!(
            refused(json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "ES256" })),
            Some(Unusable::Algorithm)
        );
        let rsa = |alg: &str| json!({ "kty": "RSA", "n": modulus(), "e": "AQAB", "alg": alg });
        assert_eq!(refused(rsa("EdDSA")), Some(Unusable::Algorithm));
        let key = Key::of_jwk(&rsa("PS256")).unwrap();
        assert!(key.fits("PS256") && !key.fits("RS256"));
    }

    #[test]
    fn curves_and_types_that_are_not_known_are_named_as_such() {
        assert_eq!(refused(json!({ "kty": "EC", "crv": "secp256k1" })), Some(Unusable::Curve));
        assert_eq!(refused(json!({ "kty": "OKP", "crv": "X25519" })), Some(Unusable::Curve));
        assert_eq!(refused(json!({ "kty": "oct", "k": "AA" })), Some(Unusable::Type));
        assert_eq!(refused(json!({ "kty": "RSA", "n": modulus() })), Some(Unusable::Malformed));
    }
}
