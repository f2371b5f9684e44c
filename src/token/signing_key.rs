//! One signing key: an Ed25519 or an RSA key.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Minimum length of the modulus of an RSA key, in bytes (RFC 7518 §3.3).
const MIN_MODULUS_BYTES: usize = 256;

/// A kind of signing key, which is also the algorithm of its signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// EdDSA over Ed25519 (RFC 8037).
    Ed25519,
    /// RS256 (RFC 7518 §3.3).
    Rsa,
}

impl KeyKind {
    /// Returns the kind of the key in a file with this extension. Other files hold no signing key.
    pub(super) fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "pem" => Some(Self::Ed25519),
            "rsa" => Some(Self::Rsa),
            _ => None,
        }
    }

    /// Returns the name of the file with the first key, which is created where there is none.
    pub(super) const fn first_file(self) -> &'static str {
        match self {
            Self::Ed25519 => "web-token.pem",
            Self::Rsa => "id-token.rsa",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Ed25519 => "an Ed25519 private key",
            Self::Rsa => "an RSA private key of 2,048 bits or more",
        }
    }

    /// Returns the name of the algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::Rsa => "RS256",
        }
    }
}

/// A private key with its public part.
#[derive(Debug)]
pub(super) enum KeyPair {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl KeyPair {
    /// Returns the key in a PKCS#8 document. Returns `None` if it holds no key of this kind.
    pub(super) fn from_pkcs8(kind: KeyKind, document: &[u8]) -> Option<Self> {
        match kind {
            // "Maybe unchecked" because OpenSSL writes PKCS#8 v1 (RFC 5208), which lacks the public key to check against.
            KeyKind::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(document).ok().map(Self::Ed25519),
            KeyKind::Rsa => {
                let pair = RsaKeyPair::from_pkcs8(document).ok()?;
                (pair.public_modulus_len() >= MIN_MODULUS_BYTES).then(|| Self::Rsa(Box::new(pair)))
            }
        }
    }

    /// Returns a new key as a PKCS#8 document. Returns `None` if the cryptography library fails.
    pub(super) fn generate_pkcs8(kind: KeyKind) -> Option<Zeroizing<Vec<u8>>> {
        let document = match kind {
            KeyKind::Ed25519 => Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1()).ok()?.as_ref().to_vec(),
            KeyKind::Rsa => {
                let document: Pkcs8V1Der<'_> = RsaKeyPair::generate(KeySize::Rsa2048).ok()?.as_der().ok()?;
                document.as_ref().to_vec()
            }
        };
        Some(Zeroizing::new(document))
    }

    pub(super) const fn kind(&self) -> KeyKind {
        match self {
            Self::Ed25519(_) => KeyKind::Ed25519,
            Self::Rsa(_) => KeyKind::Rsa,
        }
    }

    /// Returns the signature of `message`. Returns `None` if the cryptography library fails.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }

    /// Returns whether this key has signed `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let (algorithm, key): (&'static dyn VerificationAlgorithm, &[u8]) = match self {
            Self::Ed25519(pair) => (&ED25519, pair.public_key().as_ref()),
            Self::Rsa(pair) => (&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()),
        };
        UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
    }

    /// Returns the public key as a JWK (RFC 7517, RFC 7518 §6.3, RFC 8037 §2).
    pub(super) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x })
            }
            Self::Rsa(pair) => {
                let (n, e) = rsa_members(pair);
                json!({ "kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": n, "e": e })
            }
        }
    }

    /// Returns the JWK thumbprint (RFC 7638 §3, RFC 8037 §2), which is the key's id. It does not depend on the name of
    /// the key's file.
    pub(super) fn thumbprint(&self) -> String {
        let canonical = match self {
            Self::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
            }
            Self::Rsa(pair) => {
                let (n, e) = rsa_members(pair);
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
        };
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
    }
}

fn rsa_members(pair: &RsaKeyPair) -> (String, String) {
    let key = pair.public_key();
    let encode = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
    (encode(key.modulus().big_endian_without_leading_zero()), encode(key.exponent().big_endian_without_leading_zero()))
}
