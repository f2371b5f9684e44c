//! A key that verifies app tokens, and the algorithms that are accepted with it: those of its type (RFC 7518 §3.1, RFC
//! 8037 §3.1), or only the one that its `alg` names. A public key never verifies an HMAC, whose key would then be no
//! secret (RFC 8725 §3.1, §3.5).

use std::str::FromStr as _;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use pem::Pem;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::InvalidToken;

/// Algorithms that are accepted with an RSA key.
const RSA: &[&str] = &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
const P256: &[&str] = &["ES256"];
const P384: &[&str] = &["ES384"];
const P521: &[&str] = &["ES512"];
/// Names of the algorithm of an Ed25519 key: `EdDSA` (RFC 8037 §3.1) and `Ed25519` (RFC 9864 §2.2).
const ED25519_NAMES: &[&str] = &["EdDSA", "Ed25519"];
/// Permitted lengths of an RSA modulus, in bits: the minimum of RFC 7518 §3.3, and the maximum of the verifier.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

// A SubjectPublicKeyInfo (RFC 5480 §2, RFC 8410 §4) is one of these prefixes and the key: an uncompressed point, or the
// octets of an Ed25519 key.
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

/// A key with the algorithms that are accepted with it.
pub(super) struct VerifyingKey {
    /// Id of the key (`kid`), if it has one.
    pub(super) id: Option<String>,
    algorithms: Vec<&'static str>,
    verifier: Verifier,
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Rsa(DecodingKey),
    Curve(Box<ParsedPublicKey>),
}

impl Verifier {
    /// Returns the verifier of a key on a curve, given as an uncompressed point or as the octets of an Ed25519 key.
    /// Returns `None` if it is no point of the curve.
    fn of_curve(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> Option<Self> {
        ParsedPublicKey::new(algorithm, key).ok().map(Box::new).map(Self::Curve)
    }
}

/// The reason why a published key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub(super) enum Unusable {
    #[error("it is not a JWK")]
    Malformed,
    #[error("its use is not sig")]
    Use,
    #[error("its key_ops do not include verify")]
    Operations,
    #[error("its kty is not RSA, EC or OKP")]
    Type,
    #[error("its crv is not P-256, P-384, P-521 or Ed25519")]
    Curve,
    #[error("its alg does not fit its type")]
    Algorithm,
    #[error("it has fewer than 2,048 bits, or more than 8,192")]
    Bits,
    #[error("it is not a point of its curve")]
    NotOnCurve,
}

/// Checks that a JWK (RFC 7517) is a public key that can verify signatures.
///
/// # Errors
/// Returns the reason if it is not, as a sentence about the key.
pub fn check_jwk(published: &Value) -> Result<(), String> {
    VerifyingKey::of_jwk(published).map_err(|reason| reason.to_string())?;
    if published.get("d").is_some() { Err("it is a private key".to_owned()) } else { Ok(()) }
}

/// The members of a JWK that matter here (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
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

impl VerifyingKey {
    /// Reads a JWK (RFC 7517).
    ///
    /// # Errors
    /// Returns the reason if the key cannot be used.
    pub(super) fn of_jwk(published: &Value) -> Result<Self, Unusable> {
        let jwk = Jwk::deserialize(published).map_err(|_| Unusable::Malformed)?;
        if jwk.r#use.as_ref().is_some_and(|r#use| r#use != "sig") {
            return Err(Unusable::Use);
        }
        if jwk.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err(Unusable::Operations);
        }
        let on_curve = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            Verifier::of_curve(algorithm, key).ok_or(Unusable::NotOnCurve)
        };
        let (family, verifier) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => (RSA, rsa(&jwk)?),
            ("EC", Some("P-256")) => (P256, on_curve(&ECDSA_P256_SHA256_FIXED, &point(&jwk, 32)?)?),
            ("EC", Some("P-384")) => (P384, on_curve(&ECDSA_P384_SHA384_FIXED, &point(&jwk, 48)?)?),
            ("EC", Some("P-521")) => (P521, on_curve(&ECDSA_P521_SHA512_FIXED, &point(&jwk, 66)?)?),
            ("OKP", Some("Ed25519")) => {
                (ED25519_NAMES, on_curve(&ED25519, &decoded(&jwk.x).ok_or(Unusable::Malformed)?)?)
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

    /// Reads the public key in a block of a PEM file: RSA of 2,048 to 8,192 bits, P-256, P-384, P-521 or Ed25519.
    /// Returns `None` for other blocks.
    pub(super) fn of_pem(block: &Pem) -> Option<Self> {
        let with =
            |algorithms: &[&'static str], verifier| Some(Self { id: None, algorithms: algorithms.to_vec(), verifier });
        if let Ok(key) = DecodingKey::from_rsa_pem(pem::encode(block).as_bytes()) {
            // A private key is read too, and would verify nothing.
            let public = key.try_get_as_bytes().ok().and_then(|der| PublicKey::from_der(der).ok())?;
            let is_usable = modulus(public.as_ref()).is_some_and(|n| RSA_BITS.contains(&bits(n)));
            return if is_usable { with(RSA, Verifier::Rsa(key)) } else { None };
        }
        let der = block.contents();
        let of = |names: &[&'static str], algorithm: &'static dyn VerificationAlgorithm, prefix: &[u8]| {
            with(names, Verifier::of_curve(algorithm, der.strip_prefix(prefix)?)?)
        };
        of(P256, &ECDSA_P256_SHA256_FIXED, SPKI_P256)
            .or_else(|| of(P384, &ECDSA_P384_SHA384_FIXED, SPKI_P384))
            .or_else(|| of(P521, &ECDSA_P521_SHA512_FIXED, SPKI_P521))
            .or_else(|| of(ED25519_NAMES, &ED25519, SPKI_ED25519))
    }

    /// Returns the key of a shared secret, which verifies HS256.
    pub(super) fn of_secret(secret: &[u8]) -> Self {
        let verifier = Verifier::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        Self { id: None, algorithms: vec!["HS256"], verifier }
    }

    /// Returns whether tokens with this `alg` are accepted with this key.
    pub(super) fn fits(&self, algorithm: &str) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Verifies the signature of a token with this key and this `alg`. Returns the claims of the token.
    ///
    /// # Errors
    /// Returns [`InvalidToken::Signature`] if the key does not accept `algorithm` or has not made the signature, and
    /// [`InvalidToken::Malformed`] if the token is no JWT.
    pub(super) fn verify(&self, token: &str, algorithm: &str) -> Result<Map<String, Value>, InvalidToken> {
        if !self.fits(algorithm) {
            return Err(InvalidToken::Signature);
        }
        // RFC 7515 §5.2. The caller has parsed the header.
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(InvalidToken::Malformed)?;
        let (signed, payload) = (decode(signature)?, decode(payload)?);
        let is_signed = match &self.verifier {
            Verifier::Secret(key) => hmac::verify(key, message.as_bytes(), &signed).is_ok(),
            Verifier::Rsa(key) => {
                let algorithm = Algorithm::from_str(algorithm).map_err(|_| InvalidToken::Signature)?;
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm).unwrap_or(false)
            }
            Verifier::Curve(key) => key.verify_sig(message.as_bytes(), &signed).is_ok(),
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

/// Returns the verifier of an RSA key (RFC 7518 §6.3.1). Leading zero octets of modulus and exponent are skipped.
fn rsa(jwk: &Jwk) -> Result<Verifier, Unusable> {
    let number = |text| {
        let octets = decoded(text)?;
        let first = octets.iter().position(|octet| *octet != 0)?;
        Some(octets[first..].to_vec())
    };
    let (Some(n), Some(e)) = (number(&jwk.n), number(&jwk.e)) else { return Err(Unusable::Malformed) };
    if !RSA_BITS.contains(&bits(&n)) {
        return Err(Unusable::Bits);
    }
    let key = DecodingKey::from_rsa_components(&URL_SAFE_NO_PAD.encode(n), &URL_SAFE_NO_PAD.encode(e));
    key.map(Verifier::Rsa).map_err(|_| Unusable::Malformed)
}

/// Returns the uncompressed point of a key on a curve, with coordinates of `octets` octets (RFC 7518 §6.2.1.2). Accepts
/// coordinates with missing or surplus leading zeros, which some sources publish.
fn point(jwk: &Jwk, octets: usize) -> Result<Vec<u8>, Unusable> {
    let mut point = vec![0x04];
    for coordinate in [&jwk.x, &jwk.y] {
        let number = decoded(coordinate).ok_or(Unusable::Malformed)?;
        let surplus = number.len().saturating_sub(octets);
        if number[..surplus].iter().any(|octet| *octet != 0) {
            return Err(Unusable::NotOnCurve);
        }
        point.resize(point.len() + octets.saturating_sub(number.len()), 0);
        point.extend(&number[surplus..]);
    }
    Ok(point)
}

/// Decodes base64url (RFC 7515 §2). Accepts padding, the standard alphabet and white space too, which some sources
/// publish. Returns `None` if the text is empty or cannot be decoded.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let plain = |letter: char| match letter {
        '+' => '-',
        '/' => '_',
        other => other,
    };
    let text: String = text.chars().filter(|letter| !letter.is_ascii_whitespace()).map(plain).collect();
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|bytes| !bytes.is_empty())
}

/// Returns the modulus of an `RSAPublicKey` (RFC 8017 §A.1.1) in DER, without leading zero octets. Returns `None` if it
/// has fewer than 2,040 bits, whose length is encoded in another form.
fn modulus(public_key: &[u8]) -> Option<&[u8]> {
    let [0x30, 0x82, _, _, 0x02, 0x82, high, low, rest @ ..] = public_key else { return None };
    let number = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    number.get(number.iter().position(|octet| *octet != 0)?..)
}

/// Returns the length in bits of a big-endian number whose first octet is not zero.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns a modulus of 2,048 bits.
    fn modulus() -> String {
        URL_SAFE_NO_PAD.encode([0x80; 256])
    }

    fn refused(jwk: Value) -> Option<Unusable> {
        VerifyingKey::of_jwk(&jwk).err()
    }

    #[test]
    fn length_of_an_rsa_key_is_counted_from_the_first_set_bit_of_its_modulus() {
        for (number, expected) in [(&[0x01, 0x00, 0x01][..], 17), (&[0x80], 8), (&[0x7F, 0xFF], 15), (&[], 0)] {
            assert_eq!(bits(number), expected, "{number:?}");
        }
        let of_zeros = json!({ "kty": "RSA", "n": "AAAA", "e": "AQAB" });
        assert_eq!(refused(of_zeros), Some(Unusable::Malformed));
        let length = |octets: usize| {
            let n = [&[0; 3][..], &vec![0x80; octets]].concat();
            refused(json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": "AAEAAQ" }))
        };
        assert_eq!([255, 256, 1024, 1025].map(length), [Some(Unusable::Bits), None, None, Some(Unusable::Bits)]);
    }

    #[test]
    fn alg_of_a_key_restricts_it_to_that_algorithm_of_its_type() {
        // RFC 8037 §A.2.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        for alg in [json!("EdDSA"), json!("Ed25519"), json!(null)] {
            let key = VerifyingKey::of_jwk(&json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": alg })).unwrap();
            assert!(key.fits("EdDSA") && key.fits("Ed25519") && !key.fits("ES256"), "{alg}");
        }
        assert_eq!(
            refused(json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "alg": "ES256" })),
            Some(Unusable::Algorithm)
        );
        let rsa = |alg: &str| json!({ "kty": "RSA", "n": modulus(), "e": "AQAB", "alg": alg });
        assert_eq!(refused(rsa("EdDSA")), Some(Unusable::Algorithm));
        let key = VerifyingKey::of_jwk(&rsa("PS256")).unwrap();
        assert!(key.fits("PS256") && !key.fits("RS256"));
    }

    #[test]
    fn unknown_types_and_curves_and_invalid_points_are_refused_with_their_reason() {
        assert_eq!(refused(json!({ "kty": "EC", "crv": "secp256k1" })), Some(Unusable::Curve));
        assert_eq!(refused(json!({ "kty": "OKP", "crv": "X25519" })), Some(Unusable::Curve));
        assert_eq!(refused(json!({ "kty": "oct", "k": "AA" })), Some(Unusable::Type));
        assert_eq!(refused(json!({ "kty": "RSA", "n": modulus() })), Some(Unusable::Malformed));
        let ones = URL_SAFE_NO_PAD.encode([1; 33]);
        for crv in ["P-256", "P-384", "P-521"] {
            let expected = Some(Unusable::NotOnCurve);
            assert_eq!(refused(json!({ "kty": "EC", "crv": crv, "x": ones, "y": ones })), expected, "{crv}");
        }
        assert_eq!(refused(json!({ "kty": "OKP", "crv": "Ed25519", "x": ones })), Some(Unusable::NotOnCurve));
    }
}
