//! The command line, as the built binary.

use std::process::{Command, Output};

use sqlx::{ConnectOptions, PgPool};

const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn plenum(args: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plenum"))
        .args(args)
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_wrong_setting_stops_the_start_with_one_line_that_names_it_and_says_what_would_be_right() {
    for (name, value, right) in [
        ("PLENUM_BIND", "here", "invalid socket address"),
        (
            "PLENUM_PUBLIC_URL",
            "meet.example.com",
            "must be http:// or https:// and a host",
        ),
        ("PLENUM_BASE_DOMAIN", "https://x", "must be a domain name"),
        ("PLENUM_BOOTSTRAP_APP", "Not An App", "a-z, 0-9 and -"),
        (
            "PLENUM_MEDIA_PORT_BASE",
            "70000",
            "70000 is not in 0..=65535",
        ),
        ("PLENUM_WEBHOOK_TIMEOUT", "10", "time unit needed"),
        (
            "PLENUM_ALLOW_PRIVATE_WEBHOOKS",
            "perhaps",
            "value was not a boolean",
        ),
    ] {
        let output = plenum(&["serve"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains(name) && said.contains(value) && said.contains(right),
            "{said}"
        );
    }
}

#[test]
fn a_wrong_secret_is_not_repeated() {
    let app = ("PLENUM_BOOTSTRAP_APP", "acme");
    let output = plenum(
        &["serve"],
        &[app, ("PLENUM_BOOTSTRAP_SECRET_KEY", "too-short-canary")],
    );
    let said = text(&output.stderr);
    assert!(
        said.contains("PLENUM_BOOTSTRAP_SECRET_KEY") && said.contains("24 to 200"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn the_effective_settings_are_printed_with_secrets_masked_and_strange_names_questioned() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plenum.env");
    std::fs::write(
        &file,
        "PLENUM_BIND=0.0.0.0:80\nPLENUM_BASE_DOMAIN=meet.example.com\n",
    )
    .unwrap();
    let output = plenum(
        &["config"],
        &[
            ("PLENUM_CONFIG_FILE", file.to_str().unwrap()),
            ("PLENUM_BIND", "127.0.0.1:9000"),
            ("PLENUM_MASTER_KEY", MASTER_KEY),
            ("PLENUM_BASE_DOMIAN", "x"),
        ],
    );
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        printed.contains("\nPLENUM_BIND=127.0.0.1:9000\n"),
        "the environment goes before the file: {printed}"
    );
    assert!(
        printed.contains("PLENUM_BASE_DOMAIN=meet.example.com\n"),
        "{printed}"
    );
    assert!(
        printed.contains("PLENUM_MASTER_KEY=********\n") && !printed.contains(MASTER_KEY),
        "{printed}"
    );
    assert!(printed.contains(
        "PLENUM_BASE_DOMIAN is not a setting and has no effect; did you mean PLENUM_BASE_DOMAIN?"
    ));
}

#[sqlx::test]
async fn apps_and_keys_are_made_listed_and_revoked(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("PLENUM_MASTER_KEY", MASTER_KEY),
    ];
    let run = |args: &[&str]| {
        let output = plenum(args, &settings);
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (created, shown, said) = run(&["app", "create", "acme"]);
    assert!(created, "{said}");
    assert!(
        shown.contains("plenum_live_") && shown.contains("whsec_"),
        "{shown}"
    );
    let (again, _, said) = run(&["app", "create", "acme"]);
    assert!(
        !again && said.contains("an app with this name already exists"),
        "{said}"
    );
    assert!(run(&["app", "list"]).1.contains("acme"));

    let (_, made, _) = run(&["key", "create", "acme"]);
    let id = made.split_whitespace().nth(1).unwrap().to_owned();
    assert!(run(&["key", "revoke", &id]).0);
    let listed = run(&["key", "list", "acme"]).1;
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(line.contains("revoked"), "{listed}");
    assert_eq!(listed.lines().count(), 2);
    let (twice, _, said) = run(&["key", "revoke", &id]);
    assert!(!twice && said.contains("no key"), "{said}");
    let (unknown, _, said) = run(&["key", "create", "nobody"]);
    assert!(
        !unknown && said.contains("there is no app nobody"),
        "{said}"
    );
}

#[sqlx::test]
async fn a_given_database_needs_a_given_master_key(pool: PgPool) {
    let url = pool.connect_options().to_url_lossy().to_string();
    let output = plenum(&["app", "create", "acme"], &[("DATABASE_URL", &url)]);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("openssl rand -base64 32"),
        "{said}"
    );
}

#[test]
fn the_openapi_document_is_the_committed_one() {
    let output = plenum(&["openapi"], &[]);
    let committed = include_str!("../../openapi/plenum.json");
    assert!(
        text(&output.stdout) == committed,
        "update it: plenum openapi > openapi/plenum.json"
    );
}
