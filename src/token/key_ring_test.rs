//! Tests of the key ring on directories with good, added and damaged files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::key_dir::{create_first_key, key_files};
use super::key_ring::KeyRing;
use super::secret_files::{CODE_SECRET, open_code_secret, read_code_secret};
use super::signing_key::{KeyKind, KeyPair};
use crate::system::clock::Clock;

const FIRST_KEY: &str = KeyKind::Ed25519.first_file();

#[test]
fn check_creates_no_key_and_reads_those_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for empty in [dir.path(), &missing] {
        assert!(KeyRing::check(empty, Clock::system()).is_ok());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(dir.path().join("web-token.pem"), "no key").unwrap();
    assert!(KeyRing::check(dir.path(), Clock::system()).is_err());
}

#[test]
fn first_start_creates_one_private_key_and_the_next_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("deep/keys");
    let first = KeyRing::open(&keys, Clock::system()).unwrap();
    let second = KeyRing::open(&keys, Clock::system()).unwrap();
    assert_eq!(first.signing(), second.signing());
    assert_eq!(fs::read_dir(&keys).unwrap().count(), 1, "no draft is left behind");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(keys.join(FIRST_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn first_key_is_not_replaced_by_a_concurrent_first_start() {
    let dir = tempfile::tempdir().unwrap();
    create_first_key(dir.path(), KeyKind::Ed25519).unwrap();
    let kid = KeyRing::open(dir.path(), Clock::system()).unwrap().signing().to_owned();
    create_first_key(dir.path(), KeyKind::Ed25519).unwrap();
    assert_eq!(KeyRing::open(dir.path(), Clock::system()).unwrap().signing(), kid);
}

#[test]
fn newest_key_signs_and_all_keys_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let old = KeyRing::open(dir.path(), Clock::system()).unwrap().signing().to_owned();
    let other = tempfile::tempdir().unwrap();
    let new = KeyRing::open(other.path(), Clock::system()).unwrap().signing().to_owned();
    let added = dir.path().join("a.pem");
    fs::copy(other.path().join(FIRST_KEY), &added).unwrap();
    let later =
        fs::metadata(dir.path().join(FIRST_KEY)).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    fs::File::options().append(true).open(&added).unwrap().set_modified(later).unwrap();

    let ring = KeyRing::open(dir.path(), Clock::system()).unwrap();
    assert_eq!(ring.signing(), new);
    assert!(ring.sign(&old, b"decided under the old key").is_some());
    assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
}

/// Adds a new key to `dir`, in a file with a later modification time than all others. Returns the key's id.
fn add_key(dir: &Path, name: &str) -> String {
    let other = tempfile::tempdir().unwrap();
    let kid = KeyRing::open(other.path(), Clock::system()).unwrap().signing();
    let newest = key_files(dir).unwrap().last().unwrap().modified;
    fs::copy(other.path().join(FIRST_KEY), dir.join(name)).unwrap();
    let added = fs::File::options().append(true).open(dir.join(name)).unwrap();
    added.set_modified(newest + Duration::from_secs(1)).unwrap();
    kid
}

#[test]
fn added_key_is_published_at_once_and_signs_ten_seconds_later() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
    let ring = KeyRing::open(dir.path(), clock).unwrap();
    let old = ring.signing();
    let new = add_key(dir.path(), "newer.pem");
    assert!(ring.sign(&new, b"decided at a node that knows it").is_some());
    assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
    assert_eq!(ring.signing(), old);
    hands.advance_seconds(10);
    ring.refresh().unwrap();
    assert_eq!(ring.signing(), new);

    fs::write(dir.path().join("half.pem"), "-----BEGIN PRIVATE").unwrap();
    assert!(ring.refresh().is_err());
    assert_eq!(ring.signing(), new, "what cannot be read changes nothing");
    fs::remove_file(dir.path().join("half.pem")).unwrap();
    fs::remove_file(dir.path().join("newer.pem")).unwrap();
    ring.refresh().unwrap();
    assert_eq!(ring.signing(), old);
}

#[test]
fn unknown_key_ids_and_reloads_do_not_shorten_the_time_before_an_added_key_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
    let ring = KeyRing::open(dir.path(), clock).unwrap();
    let old = ring.signing();
    let new = add_key(dir.path(), "newer.pem");
    for _ in 0..10 {
        assert!(ring.sign("unknown", b"").is_none());
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), old);
        hands.advance_seconds(1);
    }
    ring.refresh().unwrap();
    assert_eq!(ring.signing(), new);
}

#[test]
fn later_added_key_does_not_delay_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
    let ring = KeyRing::open(dir.path(), clock).unwrap();
    let second = add_key(dir.path(), "second.pem");
    ring.refresh().unwrap();
    hands.advance_seconds(10);
    let third = add_key(dir.path(), "third.pem");
    ring.refresh().unwrap();
    assert_eq!(ring.signing(), second);
    // An older key that may sign takes precedence over a newer one that may not yet.
    fs::remove_file(dir.path().join("second.pem")).unwrap();
    ring.refresh().unwrap();
    assert_ne!(ring.signing(), third);
    fs::remove_file(dir.path().join(FIRST_KEY)).unwrap();
    ring.refresh().unwrap();
    assert_eq!(ring.signing(), third, "no other key is left");
}

#[test]
fn pem_file_with_a_block_that_is_cut_off_is_refused_with_the_number_of_the_block() {
    let dir = tempfile::tempdir().unwrap();
    drop(KeyRing::open(dir.path(), Clock::system()).unwrap());
    let file = dir.path().join(FIRST_KEY);
    let text = fs::read_to_string(&file).unwrap();
    let cut = &text[..text.find("-----END").unwrap()];
    for (text, block) in [(cut.to_owned(), "block 1"), (format!("{text}{cut}"), "block 2")] {
        fs::write(&file, text).unwrap();
        let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
        assert!(error.contains(FIRST_KEY) && error.contains(block), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn symbolic_link_that_leads_nowhere_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("missing", dir.path().join("link.pem")).unwrap();
    let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
    assert!(error.contains("token.key_dir") && error.contains("link.pem"), "{error}");
}

#[test]
fn pem_file_without_a_key_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.pem"), "hello").unwrap();
    let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
    assert!(error.contains("token.key_dir") && error.contains("notes.pem"), "{error}");
}

#[cfg(unix)]
#[test]
fn secret_that_others_may_write_is_refused_and_one_they_may_only_read_is_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let ring = KeyRing::open(dir.path(), Clock::system()).unwrap();
    open_code_secret(dir.path()).unwrap();
    for name in [FIRST_KEY, CODE_SECRET] {
        for (mode, is_used) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, true), (0o620, false), (0o602, false), (0o666, false)]
        {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
            let opened = KeyRing::open(dir.path(), Clock::system()).map(drop);
            let opened = opened.and_then(|()| read_code_secret(dir.path()).map(drop));
            assert_eq!(opened.is_ok(), is_used, "{name} {mode:o}");
            if let Err(error) = opened {
                let text = error.to_string();
                for part in ["token.key_dir", name, &format!("mode {mode:o}"), "chmod 600"] {
                    assert!(text.contains(part), "'{part}' is missing in: {text}");
                }
            }
            assert_eq!(ring.refresh().is_ok(), is_used || name == CODE_SECRET, "while the server runs");
        }
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn pem_file_with_a_second_key_is_refused_and_a_byte_order_mark_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let kid = KeyRing::open(dir.path(), Clock::system()).unwrap().signing();
    let file = dir.path().join(FIRST_KEY);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("\u{FEFF}{text}")).unwrap();
    assert_eq!(KeyRing::open(dir.path(), Clock::system()).unwrap().signing(), kid);
    let public = pem::encode(&pem::Pem::new("PUBLIC KEY", *b"key"));
    for second in [text.as_str(), &public] {
        fs::write(&file, format!("{text}{second}")).unwrap();
        let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
        assert!(error.contains(FIRST_KEY) && error.contains("2 PEM blocks"), "{error}");
    }
}

#[test]
fn thumbprint_matches_rfc_8037_appendix_a_3() {
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    assert_eq!(KeyPair::Ed25519(key).thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn rsa_key_is_created_on_need_and_signs_beside_the_ed25519_key() {
    let dir = tempfile::tempdir().unwrap();
    let ring = KeyRing::open(dir.path(), Clock::system()).unwrap();
    let kid = ring.signing();
    assert_eq!(ring.signing_of(KeyKind::Rsa), None);
    ring.ensure_rsa().unwrap();
    let rsa = ring.signing_of(KeyKind::Rsa).unwrap();
    ring.ensure_rsa().unwrap();
    assert_eq!((ring.signing(), ring.signing_of(KeyKind::Rsa)), (kid, Some(rsa.clone())));
    let signature = ring.sign(&rsa, b"message").unwrap();
    assert!(ring.has_signed(&rsa, KeyKind::Rsa, b"message", &signature));
    assert!(!ring.has_signed(&rsa, KeyKind::Rsa, b"another", &signature));
    assert!(!ring.has_signed(&rsa, KeyKind::Ed25519, b"message", &signature));
    let keys = ring.jwks()["keys"].as_array().unwrap().clone();
    let algorithms: std::collections::BTreeSet<_> = keys.iter().map(|key| key["alg"].as_str().unwrap()).collect();
    assert_eq!(algorithms, ["EdDSA", "RS256"].into());

    let reopened = KeyRing::open(dir.path(), Clock::system()).unwrap();
    assert_eq!(reopened.signing_of(KeyKind::Rsa), Some(rsa));
    fs::write(dir.path().join("other.rsa"), fs::read(dir.path().join(FIRST_KEY)).unwrap()).unwrap();
    let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
    assert!(error.contains("other.rsa: not an RSA private key"), "{error}");
}
