//! Apps and their keys, beneath the API.

use plenum::apps::{self, Error};
use sqlx::PgPool;

use crate::app::TestApp;

#[sqlx::test]
async fn an_apps_key_is_stored_only_as_a_hash_and_its_webhook_secret_only_sealed(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let stored: Vec<Vec<u8>> = sqlx::query_scalar(
        "select hash || convert_to(last_four, 'utf8') from secret_keys union all select room_webhook_secret from apps",
    )
    .fetch_all(&test.pool)
    .await
    .unwrap();
    assert_eq!(stored.len(), 2);
    let secret = secrecy::ExposeSecret::expose_secret(&test.app.webhook_secret.reveal()).to_owned();
    for stored in stored {
        let hidden = |text: &str| {
            !stored
                .windows(8)
                .any(|window| window == &text.as_bytes()[12..20])
        };
        assert!(hidden(&test.app.key) && hidden(&secret));
    }
}

#[sqlx::test]
async fn an_apps_name_is_given_once(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let mut conn = test.db.system().await.unwrap();
    let new = plenum::apps::NewApp {
        name: "acme".parse().unwrap(),
        key: plenum::apps::SecretKey::generate(Default::default(), &mut rand::rng()),
        webhook_secret: plenum::webhooks::SigningSecret::generate(&mut rand::rng()),
        is_default: false,
    };
    let key = plenum::sealed::MasterKey::parse(&plenum::sealed::MasterKey::text([7; 32])).unwrap();
    let again = apps::create(&mut conn, &new, &key, test.now(), &mut rand::rng()).await;
    assert!(matches!(again, Err(Error::NameTaken)), "{again:?}");
    assert_eq!(apps::list(&mut conn).await.unwrap().len(), 1);
}
