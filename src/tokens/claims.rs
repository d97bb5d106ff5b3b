//! What a token says.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::Error;
use crate::{
    id::TokenId,
    rooms::{RoomName, property::Seconds},
};

/// What a token says, in Metered's shape: all but its times and its id stands under `data`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "data": { "roomName": "standup", "isAdmin": true, "name": "Ann", "externalUserId": "42", "appName": "acme" },
    "iat": 1795251600, "exp": 4102444800_i64, "jti": "019e1a2b3c4d5e6f70819203",
}))]
pub struct Claims {
    /// What it gives, and whose it is.
    pub data: Data,
    /// When it was issued, in unix seconds.
    pub iat: i64,
    /// From when on nobody can join with it, in unix seconds.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub exp: Option<i64>,
    /// From when on one can join with it, in unix seconds.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub nbf: Option<i64>,
    /// Its id: 24 hexadecimal digits.
    #[schema(value_type = String)]
    pub jti: TokenId,
}

/// What a token gives to whoever joins with it; the fields are those that its maker sent.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// The one room that it opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    /// Whether it opens every room of the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_token: Option<bool>,
    /// Whether its bearer is a moderator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_admin: Option<bool>,
    /// The name that the others see, whatever the bearer enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For the app; webhooks tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// For the app; webhooks tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<String>,
    /// The app's own id of the person; webhooks tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_user_id: Option<String>,
    /// Seconds after which the bearer is put out; goes before the room's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub eject_after_elapsed_time_in_sec: Option<Seconds>,
    /// Whether the bearer is put out at `exp`, which else concerns joining alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eject_at_token_exp: Option<bool>,
    /// Whether the camera is on at the join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_video_on: Option<bool>,
    /// Whether the microphone is on at the join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_audio_on: Option<bool>,
    /// Whether the page offers no camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_video: Option<bool>,
    /// Whether the page offers no microphone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_audio: Option<bool>,
    /// Whether the page offers no screen sharing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_screen_sharing: Option<bool>,
    /// The app that issued it.
    pub app_name: String,
}

impl Claims {
    /// Whether the token opens this room.
    pub fn open(&self, room: &RoomName) -> bool {
        self.data.global_token == Some(true)
            || self.data.room_name.as_deref() == Some(room.as_str())
    }

    /// When it can no longer be used to join.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.exp?, 0)
    }

    /// Whether one can join with it at `now`: from `nbf` on, and before `exp`, to the second, with no leeway.
    ///
    /// # Errors
    ///
    /// [`Error::Expired`], [`Error::NotYetValid`].
    pub(super) fn check_window(&self, now: DateTime<Utc>) -> Result<(), Error> {
        let now = now.timestamp();
        if self.exp.is_some_and(|exp| now >= exp) {
            Err(Error::Expired)
        } else if self.nbf.is_some_and(|nbf| now < nbf) {
            Err(Error::NotYetValid)
        } else {
            Ok(())
        }
    }

    /// Whether it can be of our making, as far as serde has not looked: times that exist, and something that it opens.
    pub(super) fn is_sound(&self) -> bool {
        let exists = |at: Option<i64>| at.is_none_or(|at| (0..=LATEST).contains(&at));
        let opens = self.data.global_token == Some(true) || self.data.room_name.is_some();
        exists(Some(self.iat)) && exists(self.exp) && exists(self.nbf) && opens
    }
}

impl std::fmt::Debug for Data {
    /// Who it is for is nobody's business but the app's.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Data")
            .field("app_name", &self.app_name)
            .finish_non_exhaustive()
    }
}

/// A claim that may be left out, and is not null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    i64::deserialize(deserializer).map(Some)
}

/// The end of the year 9999.
const LATEST: i64 = 253_402_300_799;
