//! What a room asks of its meetings: one entry per property, from which come what is stored, what a change may say of it,
//! and what the API describes.
//!
//! The names are Metered's, and those of the properties that the other dialects brought; they are the same on the wire and
//! in Postgres. `docs/rooms.md` says which of them act yet.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::property::{Delay, Lang, Metadata, PageUrl, Property, Seconds, Text, UnixSec};

/// Declares the properties: documentation, name on the wire, name and type in code, default.
macro_rules! properties {
    ($( $(#[doc = $doc:literal])+ $wire:literal $field:ident: $kind:ty = $default:expr; )*) => {
        /// What a room asks of its meetings.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct Rules {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $wire)]
                #[schema(rename = $wire)] // which does not see the other one through a macro
                pub $field: $kind,
            )*
        }

        impl Default for Rules {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        /// A change of [`Rules`]: what is `None` stays as it is.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct RulesChange {
            $(
                $(#[doc = $doc])+
                pub $field: Option<$kind>,
            )*
        }

        impl RulesChange {
            /// Reads the properties that `given` names; `null` asks for the default. What is wrong is told to `wrong`, with
            /// the property's name and what would be right.
            pub fn read(given: &Map<String, Value>, mut wrong: impl FnMut(&'static str, String)) -> Self {
                let mut change = Self::default();
                $(
                    match given.get($wire) {
                        None => {}
                        Some(Value::Null) => change.$field = Some($default),
                        Some(value) => match Property::read(value) {
                            Ok(read) => change.$field = Some(read),
                            Err(right) => wrong($wire, right),
                        },
                    }
                )*
                change
            }

            /// Changes `rules`.
            pub fn apply(self, rules: &mut Rules) {
                $( if let Some(value) = self.$field { rules.$field = value; } )*
            }
        }

        /// The names of all properties, as they are on the wire.
        pub const NAMES: &[&str] = &[$( $wire ),*];
    };
}

/// Declares a property that is one of some words. Where it is used, `Property`, `Value`, and the derived traits are in scope.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident, unknown as $unknown:ident { $( $(#[doc = $about:literal])+ $word:ident = $wire:literal, )+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
        pub enum $name {
            $( $(#[doc = $about])+ #[serde(rename = $wire)] #[schema(rename = $wire)] $word, )+
        }

        /// From storage, where a newer version may have left a word that is not known here.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = Value::deserialize(deserializer)?;
                Ok(Property::read(&word).unwrap_or(Self::$unknown))
            }
        }

        impl Property for $name {
            fn read(value: &Value) -> Result<Self, String> {
                match value.as_str() {
                    $( Some($wire) => Ok(Self::$word), )+
                    _ => Err(format!("must be one of: {}", [$( $wire ),+].join(", "))),
                }
            }
        }

        impl $name {
            /// The word for it, outside and in Postgres.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$word => $wire, )+
                }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// Who may join.
    Privacy, unknown as Private {
        /// Whoever has the link.
        Public = "public",
        /// Whoever has a token.
        Private = "private",
    }
}
words! {
    /// How people are arranged in a composition.
    CompositionLayout, unknown as Grid {
        /// All of the same size.
        Grid = "grid",
        /// Whoever speaks is large.
        ActiveSpeaker = "active_speaker",
        /// The moderator is large.
        Broadcaster = "broadcaster",
    }
}
words! {
    /// How a meeting begins.
    MeetingStart, unknown as Join {
        /// With the first join.
        Join = "join",
        /// With the call that creates the room; without an open or live meeting nobody can join.
        Api = "api",
    }
}
words! {
    /// How media flows.
    MediaMode, unknown as Sfu {
        /// Through the SFU.
        Sfu = "sfu",
        /// From each to each; the server relays signaling and cannot see media.
        Mesh = "mesh",
    }
}
words! {
    /// What happens when somebody joins whose `externalUserId` is in already.
    DuplicateUser, unknown as Allow {
        /// The one who is in is put out.
        Replace = "replace",
        /// The one who comes is refused.
        Refuse = "refuse",
        /// Both are in.
        Allow = "allow",
    }
}

/// What participants who do not moderate may not do. True is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LockSettings {
    /// Send sound.
    pub microphone: bool,
    /// Send their picture.
    pub webcam: bool,
    /// Share their screen.
    pub screen_sharing: bool,
    /// See the chat.
    pub chat: bool,
    /// Write to the chat.
    pub chat_send: bool,
    /// Send files in the chat.
    pub chat_files: bool,
    /// Write to one person.
    pub private_chat: bool,
    /// Draw on the whiteboard.
    pub whiteboard: bool,
    /// Write on the notepad.
    pub notepad: bool,
    /// React.
    pub reactions: bool,
}

impl Property for LockSettings {
    fn read(value: &Value) -> Result<Self, String> {
        let known = serde_json::json!(Self::default());
        let is_switch = |name: &str, value: &Value| known.get(name).is_some() && value.is_boolean();
        let read = match value.as_object() {
            Some(given) if given.iter().all(|(name, value)| is_switch(name, value)) => {
                serde_json::from_value(value.clone()).ok()
            }
            _ => None,
        };
        read.ok_or_else(|| {
            let names: Vec<&str> = known
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .collect();
            format!(
                "must be an object of true and false, by the names {}",
                names.join(", ")
            )
        })
    }
}

properties! {
    /// Whether anyone with the link may join, or only who has a token.
    "privacy" privacy: Privacy = Privacy::Public;
    /// Unix time in seconds before which nobody can join; 0 is always.
    "notBeforeUnixSec" not_before: Option<UnixSec> = None;
    /// Unix time in seconds from which nobody can join; 0 is never.
    "expireUnixSec" expires: Option<UnixSec> = None;
    /// Whether everybody is put out at `expireUnixSec`.
    "ejectAtRoomExp" eject_at_expiry: bool = false;
    /// Whether the room is deleted at `expireUnixSec`.
    "deleteOnExp" delete_at_expiry: bool = false;
    /// How many may be in at once; 0 is no limit.
    "maxParticipants" max_participants: Option<u32> = None;
    /// Seconds after which each participant is put out; 0 is no limit.
    "ejectAfterElapsedTimeInSec" eject_after: Option<Seconds> = None;
    /// Seconds after which a meeting ends in which nobody shares microphone, camera or screen; 0 is never.
    "endMeetingAfterNoActivityInSec" end_after_no_activity: Option<Seconds> = None;
    /// Seconds after its first join after which a meeting ends; 0 is no limit.
    "meetingDurationSec" meeting_duration: Option<Seconds> = None;
    /// Seconds after which a meeting ends that was opened by API and that nobody joined; 0 is never.
    "emptyTimeoutSec" empty_timeout: Option<Seconds> = None;
    /// Seconds after its last leave after which a meeting ends; 0 is at once.
    "endWhenEmptyAfterSec" end_when_empty_after: Delay = Delay::new(10);
    /// Seconds after which a meeting ends that only one is left in; 0 is never.
    "endWhenOneLeftAfterSec" end_when_one_left_after: Option<Seconds> = None;
    /// Whether a meeting ends when its last moderator leaves.
    "endWhenModeratorLeaves" end_when_moderator_leaves: bool = false;
    /// Whether the first to join moderates.
    "firstJoinerModerates" first_joiner_moderates: bool = false;
    /// How a meeting begins.
    "meetingStart" meeting_start: MeetingStart = MeetingStart::Join;
    /// How media flows.
    "mediaMode" media_mode: MediaMode = MediaMode::Sfu;
    /// What happens when somebody joins whose `externalUserId` is in already.
    "duplicateUser" duplicate_user: DuplicateUser = DuplicateUser::Allow;
    /// Whether those who join wait until a moderator lets them in.
    "waitingRoom" waiting_room: bool = false;
    /// Whether nobody can join but moderators.
    "locked" locked: bool = false;
    /// Whether people without a token may ask to be let into a private room.
    "enableRequestToJoin" enable_request_to_join: bool = false;
    /// Whether only moderators may send sound, picture and screen.
    "ownerOnlyBroadcast" owner_only_broadcast: bool = false;
    /// Whether only sound may be sent; the price is that of sound.
    "audioOnlyRoom" audio_only: bool = false;
    /// Whether people join muted.
    "muteOnStart" mute_on_start: bool = false;
    /// Whether only moderators show their picture.
    "adminOnlyWebcams" admin_only_webcams: bool = false;
    /// Whether people see the pictures of those who do not moderate.
    "viewOtherWebcams" view_other_webcams: bool = true;
    /// Whether people see who is in.
    "viewUserList" view_user_list: bool = true;
    /// What participants who do not moderate may not do.
    "lockSettings" lock_settings: LockSettings = LockSettings::default();
    /// Whether the room's page goes straight in, without a lobby.
    "autoJoin" auto_join: bool = false;
    /// Whether the page shows an invitation while one is alone.
    "showInviteBox" show_invite_box: bool = true;
    /// Whether there is a chat.
    "enableChat" enable_chat: bool = false;
    /// Whether each meeting has a new chat, rather than the room one for all.
    "newChatForMeetingSession" new_chat_for_meeting: bool = true;
    /// Whether people may share their screen.
    "enableScreenSharing" enable_screen_sharing: bool = true;
    /// Whether people join with their camera on.
    "joinVideoOn" join_video_on: bool = true;
    /// Whether people join with their microphone on.
    "joinAudioOn" join_audio_on: bool = true;
    /// Whether the page offers the camera.
    "enableCamera" enable_camera: bool = true;
    /// Whether the page offers the microphone.
    "enableMicrophone" enable_microphone: bool = true;
    /// Whether recordings and the page bear a watermark.
    "enableWatermark" enable_watermark: bool = false;
    /// Whether people may send files.
    "enableFileShare" enable_file_share: bool = true;
    /// Whether people may react.
    "enableReactions" enable_reactions: bool = true;
    /// Whether people may raise their hand.
    "enableRaiseHand" enable_raise_hand: bool = true;
    /// Whether there are polls.
    "enablePolls" enable_polls: bool = true;
    /// Whether there is a whiteboard.
    "enableWhiteboard" enable_whiteboard: bool = true;
    /// Whether there is a notepad.
    "enableNotepad" enable_notepad: bool = true;
    /// Whether there are breakout rooms.
    "enableBreakout" enable_breakout: bool = true;
    /// Whether media from elsewhere can be shown.
    "enableExternalMedia" enable_external_media: bool = true;
    /// Whether pages from elsewhere can be shown.
    "enableExternalLink" enable_external_link: bool = true;
    /// Whether people may record.
    "enableRecording" enable_recording: bool = false;
    /// Whether each meeting is recorded, track by track.
    "recordRoom" record_room: bool = false;
    /// Whether meetings are composed into one picture: needed for what follows, and switched on by it.
    "enableComposition" enable_composition: bool = false;
    /// How people are arranged in the composition.
    "compositionLayout" composition_layout: CompositionLayout = CompositionLayout::Grid;
    /// Whether the composition is recorded.
    "recordComposition" record_composition: bool = false;
    /// Whether the composition is sent to `rtmpOutURL`.
    "enableRTMPOut" enable_rtmp_out: bool = false;
    /// Whether the composition can be watched by HLS.
    "enableLiveStreaming" enable_live_streaming: bool = false;
    /// Language of the page.
    "lang" lang: Lang = Lang::default();
    /// What the page calls the room.
    "title" title: Option<Text<200>> = None;
    /// What people read when they have joined.
    "welcomeMessage" welcome_message: Option<Text<2000>> = None;
    /// Where people go when they leave.
    "logoutURL" logout_url: Option<PageUrl> = None;
    /// Whatever the app wants to keep with the room, at most 16 KiB of JSON.
    "metadata" metadata: Metadata = Metadata::default();
}

impl Rules {
    /// Until when nobody can join.
    pub fn opens_at(&self) -> Option<DateTime<Utc>> {
        self.not_before.map(|UnixSec(at)| at)
    }

    /// From when on nobody can join.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires.map(|UnixSec(at)| at)
    }

    /// How long one stay may last.
    pub fn longest_stay(&self) -> Option<TimeDelta> {
        self.eject_after.map(TimeDelta::from)
    }

    /// The same without what needs the SFU, as for a mesh room.
    pub fn without_sfu(self) -> Self {
        Self {
            audio_only: false,
            owner_only_broadcast: false,
            enable_recording: false,
            record_room: false,
            enable_composition: false,
            record_composition: false,
            enable_rtmp_out: false,
            enable_live_streaming: false,
            ..self
        }
    }

    /// Switches on what others need: a stream or a recording of the composition needs the composition.
    pub fn imply(&mut self) {
        self.enable_composition |=
            self.enable_live_streaming || self.enable_rtmp_out || self.record_composition;
    }

    /// What contradicts itself: the property, and what would be right.
    pub fn contradictions(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.media_mode == MediaMode::Mesh {
            let needs_sfu = [
                ("audioOnlyRoom", self.audio_only),
                ("ownerOnlyBroadcast", self.owner_only_broadcast),
                ("enableRecording", self.enable_recording),
                ("recordRoom", self.record_room),
                ("enableComposition", self.enable_composition),
                ("recordComposition", self.record_composition),
                ("enableRTMPOut", self.enable_rtmp_out),
                ("enableLiveStreaming", self.enable_live_streaming),
            ];
            let why = "needs mediaMode sfu: in a mesh room the server does not see media";
            found.extend(
                needs_sfu
                    .into_iter()
                    .filter(|(_, wanted)| *wanted)
                    .map(|(name, _)| (name, why)),
            );
        }
        if let (Some(opens), Some(expires)) = (self.not_before, self.expires)
            && opens >= expires
        {
            found.push(("notBeforeUnixSec", "must be before expireUnixSec"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn changed(mut rules: Rules, change: RulesChange) -> Rules {
        change.apply(&mut rules);
        rules
    }

    fn read(given: &Value) -> (RulesChange, Vec<(&'static str, String)>) {
        let mut wrong = Vec::new();
        let change = RulesChange::read(given.as_object().unwrap(), |name, right| {
            wrong.push((name, right))
        });
        (change, wrong)
    }

    #[test]
    fn a_property_that_is_not_named_stays_and_null_asks_for_its_default() {
        let rules = Rules {
            enable_chat: true,
            lang: Lang::read(&json!("de")).unwrap(),
            ..Rules::default()
        };
        let (change, wrong) = read(&json!({ "enableChat": null, "autoJoin": true }));
        assert_eq!(wrong, []);
        assert_eq!(
            changed(rules.clone(), change),
            Rules {
                enable_chat: false,
                auto_join: true,
                ..rules
            }
        );
    }

    #[test]
    fn each_wrong_value_is_told_with_what_would_be_right() {
        let given = json!({
            "autoJoin": "yes", "maxParticipants": 2.5, "expireUnixSec": 1_900_000_000_000_i64, "privacy": "secret",
            "lang": "english", "metadata": [], "lockSettings": { "camera": true }, "logoutURL": "javascript:alert(1)",
            "title": "x".repeat(201), "endWhenEmptyAfterSec": -1,
        });
        let (change, wrong) = read(&given);
        assert_eq!(change, RulesChange::default());
        let mut names: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        let mut given: Vec<&str> = given
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        given.sort_unstable();
        assert_eq!(names, given);
        assert!(
            wrong.iter().all(|(_, right)| right.starts_with("must ")),
            "{wrong:?}"
        );
    }

    #[test]
    fn what_is_stored_by_an_older_version_gets_the_defaults_of_what_is_new() {
        let stored: Rules = serde_json::from_value(json!({ "autoJoin": true })).unwrap();
        assert_eq!(
            stored,
            Rules {
                auto_join: true,
                ..Rules::default()
            }
        );
    }

    #[test]
    fn what_a_newer_version_stored_is_read_as_far_as_it_is_known_and_never_opens_a_room() {
        let newer = json!({
            "privacy": "members", "compositionLayout": "spiral", "enableTelepathy": true, "autoJoin": true,
            "lockSettings": { "chat": true, "telepathy": true },
        });
        let rules: Rules = serde_json::from_value(newer).unwrap();
        assert_eq!(rules.privacy, Privacy::Private);
        assert!(rules.auto_join && rules.lock_settings.chat);
    }

    #[test]
    fn the_documentation_has_every_property() {
        let documentation = include_str!("../../docs/rooms.md");
        for name in NAMES {
            assert!(documentation.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn a_composition_is_switched_on_by_what_needs_it() {
        for name in ["enableLiveStreaming", "enableRTMPOut", "recordComposition"] {
            let mut rules = changed(Rules::default(), read(&json!({ name: true })).0);
            rules.imply();
            assert!(rules.enable_composition, "{name}");
        }
    }

    #[test]
    fn a_mesh_room_cannot_have_rules_about_media() {
        let given = json!({ "mediaMode": "mesh", "audioOnlyRoom": true, "recordRoom": true });
        let rules = changed(Rules::default(), read(&given).0);
        let names: Vec<&str> = rules
            .contradictions()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["audioOnlyRoom", "recordRoom"]);
        assert_eq!(rules.without_sfu().contradictions(), []);
    }

    proptest! {
        /// Whatever is sent, reading it does not panic, and what was accepted is stored and read back as it is.
        #[test]
        fn what_is_accepted_is_stored_and_read_back(index in 0..NAMES.len(), value in any_value()) {
            let (change, _) = read(&json!({ NAMES[index]: value }));
            let rules = changed(Rules::default(), change);
            let stored = serde_json::to_value(&rules).unwrap();
            prop_assert_eq!(serde_json::from_value::<Rules>(stored).unwrap(), rules);
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..5000_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,40}".prop_map(Value::from),
            "(public|mesh|api|de-AT|https://example.com/a|grid)".prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{0,8}", any::<bool>(), 0..3)
                .prop_map(|map| json!(map)),
        ]
    }
}
