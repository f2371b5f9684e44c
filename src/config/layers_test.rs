use std::ffi::OsString;

use super::{ENV_PREFIX, Layers, Settings};

fn layered(file: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qrlogin.toml");
    std::fs::write(&path, file).unwrap();
    let mut layers = Layers::over(&Settings::default());
    let variables = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    layers
        .file(&path)
        .and_then(|()| layers.environment(variables))
        .and_then(|()| layers.finish())
        .map(|loaded| loaded.settings)
        .map_err(|error| error.to_string())
}

#[test]
fn environment_overrides_the_file_and_the_file_overrides_the_defaults() {
    let file = "listen = '127.0.0.1:1'\n[session]\nttl_seconds = 10\nclaim_seconds = 20\n";
    let environment = [("QRLOGIN_SESSION__TTL_SECONDS", "30"), ("HOME", "/")];
    let settings = layered(file, &environment).unwrap();
    assert_eq!(settings.listen.port(), 1);
    assert_eq!(settings.session.ttl_seconds, 30);
    assert_eq!(settings.session.claim_seconds, 20);
    assert_eq!(settings.session.heartbeat_seconds, 30);
}

#[test]
fn lists_in_the_environment_are_comma_separated() {
    let environment = [("QRLOGIN_ALLOWED_ORIGINS", "https://a.example, https://b.example:8443")];
    let settings = layered("", &environment).unwrap();
    assert_eq!(settings.allowed_origins, ["https://a.example", "https://b.example:8443"]);
}

#[test]
fn error_names_the_key_and_its_source() {
    let refused = |file: &str, environment: &[(&str, &str)], parts: &[&str]| {
        let error = layered(file, environment).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "'{part}' is missing in: {error}");
        }
    };
    refused("lisen = 'x'", &[], &["qrlogin.toml", "unknown key 'lisen'", "listen"]);
    refused("[session]\nttl = 3", &[], &["qrlogin.toml", "'session.ttl'", "ttl_seconds"]);
    refused("[sesion]\nttl = 3", &[], &["qrlogin.toml", "'sesion'"]);
    refused("[session]\nttl_seconds = 'x'", &[], &["qrlogin.toml", "session.ttl_seconds", "integer"]);
    refused("listen = 'here'", &[], &["qrlogin.toml", "listen", "socket address"]);
    refused("listen =", &[], &["qrlogin.toml"]);
    refused("", &[("QRLOGIN_SESION__TTL", "3")], &["QRLOGIN_SESION__TTL", "unknown key 'sesion.ttl'"]);
    refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "soon")], &["QRLOGIN_SESSION__TTL_SECONDS", "whole number"]);
    refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "-1")], &["QRLOGIN_SESSION__TTL_SECONDS", "session.ttl_seconds"]);
    refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "0")], &["session.ttl_seconds", "from 1 to 3600"]);
    refused("", &[("QRLOGIN_ALLOW_MISSING_ORIGIN", "maybe")], &["QRLOGIN_ALLOW_MISSING_ORIGIN", "true or false"]);
    refused("", &[("QRLOGIN_SESSION", "3")], &["QRLOGIN_SESSION", "key by key"]);
    refused("", &[("QRLOGIN_LOG__FORMAT", "xml")], &["QRLOGIN_LOG__FORMAT", "log.format", "json"]);
    refused("", &[("QRLOGIN_LOG__LEVEL", "a=b=c")], &["log.level"]);
    refused("public_url = 'ftp://x'", &[], &["qrlogin.toml:1:1", "public_url", "http(s) URL"]);
    refused("allowed_origins = ['https://a.example/']", &[], &["allowed_origins", "item 1"]);
    refused("[token]\nclaims = ['email', 'sub']", &[], &["token.claims", "'sub'"]);
    refused("[app_auth]\nhmac_secret = 'x'\npublic_key_file = 'y'", &[], &["app_auth.hmac_secret", "public_key_file"]);
}

#[test]
fn syntax_error_names_position_and_key_and_quotes_no_value() {
    for (file, place, key) in [
        ("[app_auth]\nhmac_secret = hunter2\n", ":2:15: ", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = 'hunter2\n", ":2:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = \"hunter2\n", ":2:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = \"hun\\qter2\"\n", ":2:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = 'a' hunter2\n", ":2:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = \"\"\"\nhunter2=\n\\q", ":4:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret = 'x'\nhmac_secret = 'hunter2'", ":3:", "app_auth.hmac_secret"),
        ("[app_auth]\nhmac_secret: hunter2\n", ":2:", ""),
        ("database_url = postgres://u:hunter2@h/d\n", ":1:", "database_url"),
        ("database_url = 'postgres://u:hunter2@h/d\nlisten = ':1'\n", ":1:", "database_url"),
        ("app_auth = { hmac_secret = 'hunter2\n", ":1:", ""),
        ("[app_auth\nhmac_secret = 'hunter2'", ":1:", ""),
        ("hunter2", ":1:", ""),
        ("= 'hunter2'", ":1:", ""),
        ("bus_url = \"redis://:hunter2\u{0}@h\"", ":1:", "bus_url"),
        ("bus_url = 2026-99-99hunter2", ":1:", "bus_url"),
        ("bus_url = 0xhunter2", ":1:", "bus_url"),
        ("bus_url = [ 'hunter2' 'hunter2' ]", ":1:", "bus_url"),
        ("app_auth = { hmac_secret = 'x', issuer = 'hunter2 }", ":1:", "(near app_auth.issuer)"),
        ("listen = ':1'\nbus_url = 'hunter2'\nlisten = ':2'", ":3:1: ", "(near listen)"),
        ("[log]\nlevel = '''\nhunter2\nformat = 'hunter2'", ":4:", "(near log.level)"),
    ] {
        let error = layered(file, &[]).unwrap_err();
        assert!(error.contains(&format!("qrlogin.toml{place}")) && error.contains(key), "{file:?}: {error}");
        assert!(error.contains("is not TOML: ") && !error.contains("hunter") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn integer_that_does_not_fit_in_64_bits_is_refused_and_not_quoted() {
    let number = "12345678901234567890";
    let error = layered(&format!("[session]\nttl_seconds = {number}"), &[]).unwrap_err();
    let text = "qrlogin.toml:2:15: is not TOML: a number is out of range (near session.ttl_seconds)";
    assert!(error.ends_with(text), "{error}");
    let error = layered(&format!("\nbus_url = [{number}]"), &[]).unwrap_err();
    assert!(error.ends_with("qrlogin.toml:2:11: is not TOML: a number is out of range (near bus_url)"), "{error}");
}

#[test]
fn syntax_error_after_an_unknown_key_or_in_an_empty_section_names_no_other_key() {
    for file in ["listen = ':1'\nhunter2 = x", "listen = ':1'\n[log]\nhunter2", "listen = ':1'\n\u{e9} = 'x'"] {
        let error = layered(file, &[]).unwrap_err();
        assert!(error.contains("is not TOML: ") && !error.contains("near") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn value_of_the_wrong_type_is_refused_even_if_another_source_replaces_it() {
    let error = layered("log.format = 'hunter2'", &[("QRLOGIN_LOG__FORMAT", "json")]).unwrap_err();
    assert!(error.ends_with("qrlogin.toml:1:5: log.format cannot be used: expected `text` or `json`"), "{error}");
    let error = layered("\n[risk]\nsignals = ['country', 'hunter2']", &[]).unwrap_err();
    assert!(
        error.ends_with("qrlogin.toml:3:1: risk.signals cannot be used: item 2: expected `country` or `network`"),
        "{error}"
    );
}

#[test]
fn error_in_a_table_of_a_list_names_the_table_and_its_key_and_quotes_no_value() {
    let client = "[[oauth.clients]]\nid = 'a'\nname = 'A'\nauth_method = 'none'\ngrant_types = ['device_code']\n";
    assert!(layered(client, &[]).is_ok());
    for (line, part) in [
        ("scopes = 'hunter2'", "item 1, scopes: expected a sequence"),
        ("naem = 'hunter2'", "item 1, naem: unknown key (did you mean name?); known here: id, name, "),
        ("hunter2 = 1", "item 1: unknown key; known here: id, name, "),
        ("require_pkce = 'hunter2'", "item 1, require_pkce: expected a boolean"),
        ("redirect_uris = ['http://a.example/hunter2']", "item 1 (a): redirect_uris: an item is plain http"),
        ("secret_env = ['A']", "item 1 (a): auth_method none goes without secrets"),
    ] {
        let error = layered(&format!("{client}{line}"), &[]).unwrap_err();
        assert!(error.contains("qrlogin.toml:1:9: oauth.clients ") && error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = layered("[[oauth.clients]]\nname = 'A'", &[]).unwrap_err();
    assert!(error.ends_with("oauth.clients cannot be used: item 1: the key `id` is missing"), "{error}");
    let error = layered("", &[("QRLOGIN_OAUTH__CLIENTS", "hunter2")]).unwrap_err();
    assert!(error.contains("is a list of tables, which only a file can hold"), "{error}");
}

#[test]
fn unknown_key_is_quoted_only_if_it_looks_like_a_key() {
    for file in ["hunter2 = 1", "\"postgres://u:hunter2@h\" = 1", "[app_auth]\nHunter2 = 'x'"] {
        let error = layered(file, &[]).unwrap_err();
        assert!(error.contains("unknown key '(not shown)'") && !error.to_lowercase().contains("hunter2"), "{error}");
    }
}

#[test]
fn misspelled_key_is_shown_with_the_one_that_was_meant() {
    for (file, place, key, meant) in [
        ("public-url = 'https://a.example'", ":1:1", "public-url", "public_url"),
        ("Listen = ':1'", ":1:1", "Listen", "listen"),
        ("[session]\nttl-seconds = 1", ":2:1", "session.ttl-seconds", "session.ttl_seconds"),
        ("[session]\nttlSeconds = 1", ":2:1", "session.ttlSeconds", "session.ttl_seconds"),
        ("[Session]\nttl_seconds = 1", ":1:2", "Session", "session"),
        ("[app_auth]\nhmac_secret2 = 'x'", ":2:1", "app_auth.hmac_secret2", "app_auth.hmac_secret"),
        ("hmac_secret = 'x'", ":1:1", "hmac_secret", "app_auth.hmac_secret"),
    ] {
        let error = layered(file, &[]).unwrap_err();
        let text = format!("qrlogin.toml{place}: unknown key '{key}' (did you mean {meant}?); known here: ");
        assert!(error.contains(&text), "{error}");
    }
    let mut layers = Layers::over(&Settings::default());
    let error = layers.text("LISTEN", ":1", "--set").unwrap_err().to_string();
    assert!(error.starts_with("--set: unknown key 'LISTEN' (did you mean listen?); known here: "), "{error}");
    let error = layers.text("app_auth.hmac_secret:hunter2b64", "", "--set").unwrap_err().to_string();
    assert!(error.starts_with("--set: unknown key '(not shown)' (did you mean app_auth.hmac_secret?);"), "{error}");
    let error = layers.text("frobnicate", "", "--set").unwrap_err().to_string();
    assert!(error.starts_with("--set: unknown key 'frobnicate'; known here: "), "{error}");
}

#[test]
fn name_of_an_unknown_variable_is_shown_only_if_it_looks_like_one() {
    for (name, shown) in [
        (
            "QRLOGIN_SESSION_TTL_SECONDS",
            "unknown key 'session_ttl_seconds' (did you mean QRLOGIN_SESSION__TTL_SECONDS?)",
        ),
        ("QRLOGIN_HMAC_SECRET", "unknown key 'hmac_secret' (did you mean QRLOGIN_APP_AUTH__HMAC_SECRET?)"),
        ("QRLOGIN_APP_AUTH__HMAC_SECRET2", "(did you mean QRLOGIN_APP_AUTH__HMAC_SECRET?)"),
        ("QRLOGIN_Lisen", "(did you mean QRLOGIN_LISTEN?)"),
        ("QRLOGIN_PORT_8080_TCP", "unknown key 'port_8080_tcp'; known here: "),
    ] {
        let error = layered("", &[(name, "x")]).unwrap_err();
        assert!(error.starts_with(&format!("environment variable {name}: ")) && error.contains(shown), "{error}");
    }
    for (name, meant) in [
        ("QRLOGIN_APP_AUTH__HMAC_SECRET:q7hunter2SEKRETb64", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
        ("QRLOGIN_APP_AUTH__HMAC_SECRET.Hunter", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
        ("QRLOGIN_APP_AUTH__HMAC_SECRET hunter", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
        ("QRLOGIN_DATABASE_URL: postgres://u:hunter2@h/d", Some("QRLOGIN_DATABASE_URL")),
        ("QRLOGIN_hunter2", None),
        ("QRLOGIN_HUNTER2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None),
    ] {
        let error = layered("", &[(name, "x")]).unwrap_err();
        let question = meant.map_or_else(String::new, |meant| format!(" (did you mean {meant}?)"));
        let text = format!(
            "environment variable QRLOGIN_… (its name is not shown): unknown key '(not shown)'{question}; known here: "
        );
        assert!(error.starts_with(&text) && !error.to_lowercase().contains("hunter"), "{error}");
    }
}

#[test]
fn file_that_is_not_utf8_is_refused_with_the_position_of_the_first_bad_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qrlogin.toml");
    let refusal = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = Layers::over(&Settings::default()).file(&path).unwrap_err().to_string();
        assert!(!error.contains("hunter"), "{error}");
        error.split_once("qrlogin.toml").unwrap().1.to_owned()
    };
    let latin = b"listen = ':1'\n[app_auth]\nhmac_secret = 'hunter\xe92'\n";
    assert_eq!(refusal(latin), ":3:22: is not UTF-8 text (near app_auth.hmac_secret)");
    assert_eq!(refusal(b"# caf\xe9\nlisten = ':1'\n"), ":1:6: is not UTF-8 text");
    // Columns are counted in characters.
    assert_eq!(refusal(b"listen = '\xc3\xa9\xff'\n"), ":1:12: is not UTF-8 text (near listen)");
    assert_eq!(refusal(b"listen = '\xc3"), ":1:11: is not UTF-8 text (near listen)");
    let wide: Vec<u16> = "\u{feff}listen = 'hunter2'\n".encode_utf16().collect();
    let little: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = wide.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for bytes in [little, big] {
        assert_eq!(refusal(&bytes), ": is UTF-16, and must be UTF-8; save it in that encoding");
    }
    // A byte order mark of UTF-8 is allowed.
    assert_eq!(layered("\u{feff}listen = ':1'", &[]).unwrap().listen.port(), 1);
}

#[test]
fn line_end_in_a_list_a_number_or_a_boolean_causes_a_warning() {
    let warnings = |name: &str, value: &str| {
        let mut layers = Layers::over(&Settings::default());
        layers.environment([(format!("{ENV_PREFIX}{name}").into(), value.into())]).unwrap();
        layers.finish().unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (name, value) in [
        ("ALLOWED_ORIGINS", "https://a.example\r"),
        ("ALLOWED_ORIGINS", "https://a.example\r, https://b.example"),
        ("ALLOWED_ORIGINS", "https://a.example,\nhttps://b.example,\nhttps://c.example"),
        ("ALLOWED_ORIGINS", " https://a.example"),
        ("ALLOWED_ORIGINS", "https://a.example,\r\n"),
        ("SESSION__TTL_SECONDS", "60\r"),
        ("SESSION__TTL_SECONDS", " 60"),
        ("ALLOW_MISSING_ORIGIN", "true\r\n"),
    ] {
        let warned = warnings(name, value);
        assert_eq!(warned.len(), 1, "{value:?}: {warned:?}");
        assert!(warned[0].contains(name) && warned[0].contains("white space"), "{warned:?}");
    }
    for (name, value) in [
        ("ALLOWED_ORIGINS", "https://a.example, https://b.example ,\thttps://c.example,"),
        ("ALLOWED_ORIGINS", "https://a.example,,https://b.example, "),
        ("SESSION__TTL_SECONDS", "60"),
        ("ALLOW_MISSING_ORIGIN", "TRUE"),
    ] {
        // A blank at the end of the whole value is one around it.
        let expected = usize::from(value.ends_with(' '));
        assert_eq!(warnings(name, value).len(), expected, "{value:?}");
    }
}

#[test]
fn origin_of_an_error_is_that_of_the_key_it_begins_with() {
    let mut layers = Layers::over(&Settings::default());
    layers.environment([("QRLOGIN_DATABASE_URL".into(), "sqlite://a.db".into())]).unwrap();
    layers.text("geoip.city_file", "a.mmdb", "--set").unwrap();
    let mut origins = layers.finish().unwrap().origins;
    assert_eq!(origins.of_error("database_url: cannot open"), Some("environment variable QRLOGIN_DATABASE_URL"));
    assert_eq!(origins.of_error("geoip.city_file: a.mmdb: missing"), Some("--set"));
    for other in ["bus_url: is wrong", "database_url is wrong", "the system: database_url: is wrong", ""] {
        assert_eq!(origins.of_error(other), None);
    }
    origins.forget("database_url");
    assert_eq!(origins.of_error("database_url: cannot open"), None);
}

#[test]
fn client_secret_without_an_id_is_named_with_its_source() {
    for (name, missing) in [("SECRET", "id"), ("ID", "secret")] {
        let name = format!("QRLOGIN_APP_AUTH__INTROSPECTION_CLIENT_{name}");
        let error = layered("", &[(&name, "hunter2")]).unwrap_err();
        let key = name.strip_prefix(ENV_PREFIX).unwrap().to_lowercase().replace("__", ".");
        let reason = format!("goes together with app_auth.introspection_client_{missing}; set both or none");
        assert_eq!(error, format!("environment variable {name}: {key} {reason}"));
    }
}

#[test]
fn blank_variable_counts_as_not_set() {
    let names = [
        "LISTEN",
        "PUBLIC_URL",
        "DATABASE_URL",
        "BUS_URL",
        "LOG__LEVEL",
        "LOG__FORMAT",
        "TOKEN__KEY_DIR",
        "RISK__SIGNALS",
        "SESSION__TTL_SECONDS",
        "ALLOW_MISSING_ORIGIN",
        "APP_AUTH__HMAC_SECRET",
        "APP_AUTH__USER_CLAIM",
        "SESSION",
    ];
    for empty in ["", " ", "\n", "\r\n"] {
        for name in names {
            let is_secret = name.ends_with("SECRET");
            if is_secret && empty == " " {
                continue;
            }
            let name = format!("{ENV_PREFIX}{name}");
            assert_eq!(layered("", &[(&name, empty)]), Ok(Settings::default()), "{name}={empty:?}");
        }
    }
    // In a file, an empty value is an error.
    for (file, key) in
        [("[token]\nkey_dir = ''", "token.key_dir"), ("[log]\nlevel = ' '", "log.level"), ("listen = ''", "listen")]
    {
        let error = layered(file, &[]).unwrap_err();
        assert!(error.contains(key) && error.contains("must not be empty"), "{error}");
    }
}

#[test]
fn removed_white_space_causes_a_warning_with_source_and_key() {
    let mut layers = Layers::over(&Settings::default());
    let variables = [("QRLOGIN_PUBLIC_URL", "https://login.example.com\r"), ("QRLOGIN_BUS_URL", "redis://h")];
    layers.environment(variables.map(|(name, value)| (name.into(), value.into()))).unwrap();
    layers.text("token.key_dir", " keys ", "--set").unwrap();
    let warnings: Vec<_> = layers.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "environment variable QRLOGIN_PUBLIC_URL: public_url has white space around its value, which was cut off",
            "--set: token.key_dir has white space around its value, which was cut off",
        ]
    );
    assert_eq!(layers.finish().unwrap().settings.public_base(), "https://login.example.com");
}

#[test]
fn hmac_secret_of_fewer_than_32_bytes_is_refused() {
    for (secret, is_taken) in [("x".repeat(31), false), ("x".repeat(32), true), ("x".repeat(31) + "\n", false)] {
        let taken = layered("", &[("QRLOGIN_APP_AUTH__HMAC_SECRET", &secret)]);
        assert_eq!(taken.is_ok(), is_taken);
        if let Err(error) = taken {
            assert!(error.contains("QRLOGIN_APP_AUTH__HMAC_SECRET") && error.contains("32 bytes"), "{error}");
        }
    }
}

#[test]
fn public_url_that_browsers_would_correct_is_refused() {
    for good in
        ["https://a.example", "https://a.example:8443/login/", "http://[::1]:8080", "https://b\u{fc}cher.example"]
    {
        assert!(layered("", &[("QRLOGIN_PUBLIC_URL", good)]).is_ok(), "{good}");
    }
    for bad in [
        "https:a.example",
        "https:/a.example",
        "https:///a.example",
        "https:\\\\a.example",
        "https://a.example\\b",
        "https://a.example/a b",
        "https://a.exa\tmple",
        "https://a.exa\nmple",
        "https://a.example/\u{a0}b",
        "a.example",
        "https://",
        "https://u@a.example",
        "https://:pw@a.example",
        "https://@a.example",
        "https://a.example/?x",
        "https://a.example/#x",
        "https://a.example/?",
        "https://a.example/<b>",
        "https://a.example:99999",
        "wss://a.example",
    ] {
        let error = layered("", &[("QRLOGIN_PUBLIC_URL", bad)]).unwrap_err();
        assert!(error.contains("QRLOGIN_PUBLIC_URL") && error.contains("public_url"), "{bad}: {error}");
    }
}

#[test]
fn log_level_with_an_unknown_word_is_refused() {
    for good in ["info", "INFO", "off", "warn,qrlogin::http=debug", "qrlogin", "info,[request]=trace", "3"] {
        assert!(layered("", &[("QRLOGIN_LOG__LEVEL", good)]).is_ok(), "{good}");
    }
    for bad in ["warning", "inof", "info,hyper", "a=b=c", "qrlogin=loud"] {
        let error = layered("", &[("QRLOGIN_LOG__LEVEL", bad)]).unwrap_err();
        assert!(error.contains("log.level") && !error.contains(bad), "{bad}: {error}");
    }
}

#[test]
fn printed_settings_are_a_file_to_which_a_client_can_be_added() {
    let printed = layered("[log]\nlevel = 'debug'", &[]).unwrap().to_toml().unwrap();
    let client = "[[oauth.clients]]\nid = 'a'\nname = 'A'\nauth_method = 'none'\ngrant_types = ['device_code']\n";
    assert_eq!(layered(&printed, &[]).unwrap().log.level, "debug");
    let settings = layered(&format!("{printed}{client}"), &[]).unwrap();
    assert_eq!(layered(&settings.to_toml().unwrap(), &[]).unwrap(), settings);
}

#[test]
fn secrets_are_hidden_in_toml_and_debug_output() {
    let secret = "swordfish, and another thirty-two bytes";
    let settings = layered(&format!("[app_auth]\nhmac_secret = '{secret}'"), &[]).unwrap();
    assert!(!settings.to_toml().unwrap().contains("swordfish"));
    assert!(!format!("{settings:?}").contains("swordfish"));
}
