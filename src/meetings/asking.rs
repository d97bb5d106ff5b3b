//! Those who ask to come in: of whom is refused, or gone before that is decided, the app is told.

use std::sync::Arc;

use rand::{SeedableRng, rngs::SmallRng};
use tracing::warn;

use super::{Context, Grant, JoinRequest, Refusal};
use crate::{
    id::{AppId, EventId},
    rooms::Room,
    webhooks::{self, Event, Kind, Person},
};

/// Somebody who asks to join. Dropped before that is settled, they have gone.
pub struct Asking {
    context: Arc<Context>,
    app: AppId,
    /// Which room, once there is one, and who, as far as that is known.
    known: Option<(webhooks::Room, Person)>,
    /// Whether the meeting's owner says what becomes of them.
    pub is_with_owner: bool,
}

impl Asking {
    /// Somebody of whom nothing is known.
    pub fn new(context: Arc<Context>, app: AppId) -> Self {
        Self {
            context,
            app,
            known: None,
            is_with_owner: false,
        }
    }

    /// There is such a room, and they give this name.
    pub fn knows(&mut self, room: &Room, name: &str) {
        let person = Person {
            name: name.to_owned(),
            ..Person::default()
        };
        self.known = Some((room.told(), person));
    }

    /// Their token is good.
    pub fn knows_bearer(&mut self, grant: &Grant) {
        if let Some((_, person)) = &mut self.known {
            *person = told(&person.name, Some(grant));
        }
    }

    /// They are told that they are in, or why not.
    pub fn settle(mut self, refusal: Option<&Refusal>) {
        let known = self.known.take();
        if let (Some(refusal), Some((room, person))) = (refusal, known) {
            self.context.announce(self.app, room, person, refusal);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some((room, person)) = self.known.take().filter(|_| !self.is_with_owner) {
            self.context
                .announce(self.app, room, person, &Refusal::JoinAborted);
        }
    }
}

impl Context {
    /// Tells the app that whoever asked so has gone before it was decided.
    pub(super) fn announce_gone(self: &Arc<Self>, request: &JoinRequest) {
        let (room, grant) = (&request.room, request.grant.as_ref());
        let person = told(&request.name, grant);
        self.announce(room.app_id, room.told(), person, &Refusal::JoinAborted);
    }

    /// Tells the app of a refusal, in a transaction of its own: nothing waits for it, and what cannot be stored is lost. Of
    /// very many of one kind, not all are told.
    fn announce(
        self: &Arc<Self>,
        app: AppId,
        room: webhooks::Room,
        person: Person,
        refusal: &Refusal,
    ) {
        let (now, code) = (self.clock.now(), refusal.code());
        if !refusal.is_announced() || self.announced.try_take(&(room.id, code), now).is_err() {
            return;
        }
        let event = Event {
            id: EventId::new(now, &mut SmallRng::from_rng(&mut rand::rng())),
            app,
            meeting: self.meeting_in(room.id),
            room,
            seq: None,
            at: now,
            request_id: None,
            kind: Kind::ParticipantJoinRefused { person, code },
        };
        let context = self.clone();
        self.spawn(async move {
            match context.write(&event).await {
                Ok(()) => context.webhooks.notify_one(),
                Err(error) => warn!(%error, "a refused join cannot be told to its app"),
            }
        });
    }

    async fn write(&self, event: &Event) -> sqlx::Result<()> {
        let mut tx = self.db.begin(event.app).await?;
        webhooks::emit(&mut tx, std::slice::from_ref(event)).await?;
        tx.commit().await
    }
}

/// What the app is told of somebody: by their token's word, where they have one.
fn told(name: &str, grant: Option<&Grant>) -> Person {
    let Some(grant) = grant else {
        return Person {
            name: name.to_owned(),
            ..Person::default()
        };
    };
    Person {
        name: grant.name.clone().unwrap_or_else(|| name.to_owned()),
        email: grant.identity.email.clone(),
        external_user_id: grant.identity.external_user_id.clone(),
        meta: grant.identity.meta.clone(),
    }
}
