//! What an app can set: one entry per setting, from which come what is stored, how a change of it is read, and what the API
//! describes.
//!
//! `docs/apps.md` says which of them act yet.

use chrono::TimeDelta;
use email_address::EmailAddress;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;
use utoipa::ToSchema;

use crate::rooms::{
    self, Rules, RulesChange,
    property::{PageUrl, Property, Text},
    words,
};

/// A setting that cannot be as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Its name, after the name of its group and a dot: `branding.accentColor`.
    pub setting: String,
    /// What would be right, to follow the name: "must be true or false".
    pub right: String,
}

/// The settings after a change, and what the change names in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    /// All settings.
    pub settings: AppSettings,
    /// What is named and is no setting: it has no effect.
    pub unknown: Vec<String>,
}

/// A setting, or a group of them.
trait Setting: Sized {
    /// Reads a value that is not `null`; `None` where something was wrong with it, and told.
    fn read_setting(value: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Option<Self>;
}

impl<T: Property> Setting for T {
    fn read_setting(value: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Option<Self> {
        let refuse = |right| {
            wrong.push(Wrong {
                setting: path.to_owned(),
                right,
            });
        };
        Self::read(value).map_err(refuse).ok()
    }
}

/// Declares a group of settings: documentation, name on the wire, name and type in code, default.
macro_rules! settings {
    ($(#[doc = $about:literal])+ $group:ident {
        $( $(#[doc = $doc:literal])+ $wire:literal $field:ident: $kind:ty = $default:expr; )*
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct $group {
            $(
                $(#[doc = $doc])+
                #[serde(rename = $wire)]
                #[schema(rename = $wire)] // which does not see the other one through a macro
                pub $field: $kind,
            )*
        }

        impl Default for $group {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl Setting for $group {
            fn read_setting(value: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Option<Self> {
                let given = object(value, path, wrong)?;
                let mut read = Self::default();
                $(
                    if let Some(value) = given.get($wire).filter(|value| !value.is_null())
                        && let Some(value) = Setting::read_setting(value, &under(path, $wire), wrong)
                    {
                        read.$field = value;
                    }
                )*
                Some(read)
            }
        }
    };
}

settings! {
    /// The settings of an app.
    AppSettings {
        /// How the app's pages look, and what they are called.
        "branding" branding: Branding = Branding::default();
        /// Origins of the pages that may show a room in a frame, such as `https://example.com`, at most 20. `null` is any, an
        /// empty list is none.
        "embedOrigins" embed_origins: Option<Origins> = None;
        /// Which other systems' APIs the app can be called by. Metered's is always on.
        "dialects" dialects: Dialects = Dialects::default();
        /// Whether anybody may make rooms, without a credential.
        "anonymousRooms" anonymous_rooms: bool = false;
        /// The properties that a new room gets where its creation does not name them.
        "roomDefaults" room_defaults: RoomDefaults = RoomDefaults::default();
        /// How long data is kept.
        "retention" retention: Retention = Retention::default();
        /// E-mail address at which the app's people are told what concerns them: endpoints that were switched off, limits.
        "contactEmail" contact_email: Option<Email> = None;
    }
}

settings! {
    /// How the app's pages look; `null` is Plenum's own. What else has a colour is derived, so that text stays legible.
    Branding {
        /// What the pages call the app: at most 60 characters.
        "name" name: Option<Text<60>> = None;
        /// Picture in the place of Plenum's mark, 28 pixels high.
        "logoURL" logo: Option<PageUrl> = None;
        /// Another one for dark pages.
        "logoDarkURL" logo_dark: Option<PageUrl> = None;
        /// Colour of what can be pressed and of what is selected, as `#3250dc`.
        "accentColor" accent_color: Option<Color> = None;
        /// Colour of light pages, behind everything.
        "backgroundColor" background_color: Option<Color> = None;
        /// Colour of dark pages, behind everything.
        "backgroundDarkColor" background_dark_color: Option<Color> = None;
        /// How round corners are.
        "corners" corners: Corners = Corners::Soft;
        /// Whether pages are light or dark.
        "theme" theme: Theme = Theme::System;
        /// Page about what happens to people's data.
        "privacyURL" privacy: Option<PageUrl> = None;
        /// Page for people who need help.
        "helpURL" help: Option<PageUrl> = None;
    }
}

words! {
    /// How round corners are.
    Corners, unknown as Soft {
        /// Not at all.
        Square = "square",
        /// A little.
        Soft = "soft",
        /// Half as much again.
        Round = "round",
    }
}

words! {
    /// Whether pages are light or dark.
    Theme, unknown as System {
        /// As each person's system is.
        System = "system",
        /// Light.
        Light = "light",
        /// Dark.
        Dark = "dark",
    }
}

settings! {
    /// Which other systems' APIs the app can be called by.
    Dialects {
        /// MiroTalk SFU's.
        "mirotalk" mirotalk: bool = true;
        /// MikroMeet's.
        "mikromeet" mikromeet: bool = true;
        /// plugNmeet's.
        "plugnmeet" plugnmeet: bool = true;
    }
}

settings! {
    /// How long data is kept, in days.
    Retention {
        /// What tells who was in a meeting, from the end of their stay: 1 to 3650.
        "personalDataDays" personal_data: Days<1, 3650> = Days(90);
        /// Events, their deliveries and the attempts at them: 4 to 365. A delivery is tried for three days.
        "eventDays" events: Days<4, 365> = Days(30);
    }
}

/// `#` and six hexadecimal digits, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct Color(String);

/// Origins (RFC 6454) in the form that browsers send: scheme, host, and the port where it is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = Vec<String>)]
pub struct Origins(Vec<String>);

/// An e-mail address (RFC 5321) at a domain, without a name beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct Email(String);

/// A number of days, `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(value_type = u16)]
pub struct Days<const LEAST: u16, const MOST: u16>(u16);

impl<const LEAST: u16, const MOST: u16> Days<LEAST, MOST> {
    /// So many days.
    pub fn span(self) -> TimeDelta {
        TimeDelta::days(self.0.into())
    }
}

/// Properties of rooms, as they were given; each can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = Object)]
pub struct RoomDefaults(Map<String, Value>);

impl AppSettings {
    /// The settings after `patch`, a merge patch (RFC 7396): what it does not name stays, and `null` asks for the default.
    ///
    /// # Errors
    ///
    /// All that is wrong, at once.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Patched, Vec<Wrong>> {
        let mut document = self.document();
        merge(&mut document, patch);
        let mut wrong = Vec::new();
        let read = Self::read_setting(&Value::Object(document), "", &mut wrong);
        let Some(settings) = read.filter(|_| wrong.is_empty()) else {
            return Err(wrong);
        };
        let mut unknown = Vec::new();
        strangers(patch, &settings.document(), "", &mut unknown);
        Ok(Patched { settings, unknown })
    }

    /// The settings as a JSON object that has each of them.
    #[expect(
        clippy::expect_used,
        reason = "they are plain values under names that are text"
    )]
    pub fn document(&self) -> Map<String, Value> {
        let document = serde_json::to_value(self).expect("settings are JSON");
        document.as_object().cloned().unwrap_or_default()
    }

    /// The names of all settings: those in a group have its name and a dot before theirs.
    pub fn names() -> Vec<String> {
        let document = Self::default().document();
        let within = |group: &str| match group {
            "roomDefaults" => rooms::NAMES.iter().map(|name| under(group, name)).collect(),
            _ => {
                let inner = document[group].as_object().into_iter().flatten();
                inner.map(|(name, _)| under(group, name)).collect()
            }
        };
        let groups = document.keys().cloned();
        let inner: Vec<String> = document
            .keys()
            .flat_map(|group| -> Vec<String> { within(group) })
            .collect();
        groups.chain(inner).collect()
    }

    /// The pages that may show a room in a frame, as a source list of Content Security Policy.
    pub fn frame_ancestors(&self) -> String {
        match &self.embed_origins {
            None => "*".to_owned(),
            Some(Origins(origins)) => origins
                .iter()
                .fold("'self'".to_owned(), |list, origin| list + " " + origin),
        }
    }
}

impl RoomDefaults {
    /// The rules of a new room that nothing was said of.
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        // What an earlier version stored and this one does not read has its own default.
        RulesChange::read(&self.0, |_, _| {}).apply(&mut rules);
        rules
    }
}

impl Setting for RoomDefaults {
    fn read_setting(value: &Value, path: &str, wrong: &mut Vec<Wrong>) -> Option<Self> {
        let mut given = object(value, path, wrong)?.clone();
        given.retain(|name, _| rooms::NAMES.contains(&name.as_str()));
        let before = wrong.len();
        let mut refuse = |name: &str, right: String| {
            wrong.push(Wrong {
                setting: under(path, name),
                right,
            });
        };
        let mut rules = Rules::default();
        RulesChange::read(&given, &mut refuse).apply(&mut rules);
        for (name, right) in rules.contradictions() {
            refuse(name, right.to_owned());
        }
        if rules.enable_rtmp_out {
            let right = "cannot be a default: each room has an rtmpOutURL of its own";
            refuse("enableRTMPOut", right.to_owned());
        }
        (wrong.len() == before).then_some(Self(given))
    }
}

impl Property for Option<Color> {
    fn read(value: &Value) -> Result<Self, String> {
        let digits = value.as_str().and_then(|text| text.strip_prefix('#'));
        let fits = |digits: &&str| {
            digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        match digits.filter(fits) {
            Some(digits) => Ok(Some(Color(format!("#{}", digits.to_ascii_lowercase())))),
            None => Err("must be a colour as # and six hexadecimal digits, such as #3250dc".into()),
        }
    }
}

/// A list, or as text one with commas.
impl Property for Option<Origins> {
    fn read(value: &Value) -> Result<Self, String> {
        let wrong = || {
            "must be a list of origins such as https://example.com or http://localhost:3000, each a scheme, a host and \
             perhaps a port"
                .to_owned()
        };
        let given: Vec<&str> = match value {
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(given) => given
                .iter()
                .map(Value::as_str)
                .collect::<Option<_>>()
                .ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        if given.len() > MOST_ORIGINS {
            return Err(format!("must have at most {MOST_ORIGINS} origins"));
        }
        let mut origins = Vec::with_capacity(given.len());
        for (index, text) in given.into_iter().enumerate() {
            let not_one = || format!("{}; number {} is none", wrong(), index + 1);
            let origin = origin(text).ok_or_else(not_one)?;
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        Ok(Some(Origins(origins)))
    }
}

impl Property for Option<Email> {
    fn read(value: &Value) -> Result<Self, String> {
        let options = email_address::Options::default()
            .with_required_tld()
            .without_domain_literal()
            .without_display_text();
        match value.as_str().map(str::trim) {
            Some("") => Ok(None),
            Some(text) if EmailAddress::parse_with_options(text, options).is_ok() => {
                Ok(Some(Email(text.to_owned())))
            }
            _ => Err("must be an e-mail address such as ops@example.com".to_owned()),
        }
    }
}

impl<const LEAST: u16, const MOST: u16> Property for Days<LEAST, MOST> {
    fn read(value: &Value) -> Result<Self, String> {
        let days = value.as_u64().and_then(|days| u16::try_from(days).ok());
        days.filter(|days| (LEAST..=MOST).contains(days))
            .map(Self)
            .ok_or_else(|| format!("must be from {LEAST} to {MOST}, in days"))
    }
}

/// The origin of a URL that is nothing but one. It stands in a header, so that its host has plain characters alone.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text)
        .ok()
        .filter(|_| text.len() <= LONGEST_ORIGIN)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let fits = matches!(url.scheme(), "http" | "https")
        && url.host_str()?.bytes().all(plain)
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    fits.then(|| url.origin().ascii_serialization())
}

fn object<'a>(
    value: &'a Value,
    path: &str,
    wrong: &mut Vec<Wrong>,
) -> Option<&'a Map<String, Value>> {
    let object = value.as_object();
    if object.is_none() {
        wrong.push(Wrong {
            setting: path.to_owned(),
            right: "must be an object of settings".to_owned(),
        });
    }
    object
}

/// The name of a setting in the group `path`.
fn under(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Applies a merge patch (RFC 7396, section 2).
fn merge(document: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                document.remove(name);
            }
            Value::Object(patch) => {
                let part = document.entry(name).or_insert(Value::Null);
                if !part.is_object() {
                    *part = Value::Object(Map::new());
                }
                if let Some(part) = part.as_object_mut() {
                    merge(part, patch);
                }
            }
            value => {
                document.insert(name.clone(), value.clone());
            }
        }
    }
}

/// What `patch` names and `settings`, which have each setting, do not.
fn strangers(
    patch: &Map<String, Value>,
    settings: &Map<String, Value>,
    path: &str,
    unknown: &mut Vec<String>,
) {
    for (name, value) in patch {
        let path = under(path, name);
        match (settings.get(name), value) {
            (None, _) => unknown.push(path),
            (Some(_), Value::Object(given)) if path == "roomDefaults" => {
                let strange = given
                    .keys()
                    .filter(|name| !rooms::NAMES.contains(&name.as_str()));
                unknown.extend(strange.map(|name| under(&path, name)));
            }
            (Some(Value::Object(settings)), Value::Object(patch)) => {
                strangers(patch, settings, &path, unknown);
            }
            _ => {}
        }
    }
}

/// As many as fit into a header that every proxy lets through.
const MOST_ORIGINS: usize = 20;
/// A scheme, a host name of 253 characters, and a port.
const LONGEST_ORIGIN: usize = 267;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patch(settings: &AppSettings, patch: &Value) -> Result<Patched, Vec<Wrong>> {
        settings.patched(patch.as_object().unwrap())
    }

    fn set(given: &Value) -> AppSettings {
        patch(&AppSettings::default(), given).unwrap().settings
    }

    #[test]
    fn only_what_a_change_names_changes_and_null_asks_for_the_default() {
        let settings = set(&json!({
            "branding": { "name": "Acme", "accentColor": "#AA00bb" }, "anonymousRooms": true,
            "retention": { "eventDays": 7 }, "roomDefaults": { "maxParticipants": 10, "lang": "de" },
        }));
        let change = json!({
            "branding": { "name": null }, "retention": null, "roomDefaults": { "lang": null, "autoJoin": true },
        });
        let after = patch(&settings, &change).unwrap().settings.document();
        assert_eq!(after["branding"]["name"], Value::Null);
        assert_eq!(after["branding"]["accentColor"], "#aa00bb");
        assert_eq!(after["anonymousRooms"], true);
        assert_eq!(
            after["retention"],
            json!({ "personalDataDays": 90, "eventDays": 30 })
        );
        assert_eq!(
            after["roomDefaults"],
            json!({ "maxParticipants": 10, "autoJoin": true })
        );
        assert_eq!(patch(&settings, &json!({})).unwrap().settings, settings);
    }

    #[test]
    fn settings_that_were_stored_before_others_existed_have_the_defaults_of_those() {
        let stored = json!({ "branding": { "name": "Acme" }, "gone": 1, "roomDefaults": { "lang": "English" } });
        let read: AppSettings = serde_json::from_value(stored).unwrap();
        assert_eq!(
            read.branding,
            set(&json!({ "branding": { "name": "Acme" } })).branding
        );
        assert_eq!(read.dialects, Dialects::default());
        assert_eq!(read.room_defaults.rules(), Rules::default());
        assert_eq!(
            serde_json::from_value::<AppSettings>(json!({})).unwrap(),
            AppSettings::default()
        );
    }

    #[test]
    fn each_wrong_setting_is_told_with_what_would_be_right() {
        let given = json!({
            "branding": {
                "name": "x".repeat(61), "logoURL": "javascript:1", "accentColor": "red", "corners": "oval",
                "theme": 1, "helpURL": "help",
            },
            "embedOrigins": ["https://example.com", "example.com"], "dialects": { "mirotalk": "yes" },
            "anonymousRooms": 1, "retention": { "personalDataDays": 0, "eventDays": 366 }, "contactEmail": "ops",
            "roomDefaults": { "maxParticipants": -1, "lang": 5 },
        });
        let wrong = patch(&AppSettings::default(), &given).unwrap_err();
        let mut names: Vec<&str> = wrong.iter().map(|wrong| wrong.setting.as_str()).collect();
        names.sort_unstable();
        let all = [
            "anonymousRooms",
            "branding.accentColor",
            "branding.corners",
            "branding.helpURL",
            "branding.logoURL",
            "branding.name",
            "branding.theme",
            "contactEmail",
            "dialects.mirotalk",
            "embedOrigins",
            "retention.eventDays",
            "retention.personalDataDays",
            "roomDefaults.lang",
            "roomDefaults.maxParticipants",
        ];
        assert_eq!(names, all);
        assert!(
            wrong.iter().all(|wrong| wrong.right.starts_with("must ")),
            "{wrong:?}"
        );
        for group in ["branding", "dialects", "retention", "roomDefaults"] {
            let wrong = patch(&AppSettings::default(), &json!({ group: "x" })).unwrap_err();
            assert_eq!((wrong.len(), wrong[0].setting.as_str()), (1, group));
        }
    }

    #[test]
    fn defaults_of_rooms_that_contradict_each_other_are_refused() {
        let given = json!({ "roomDefaults": { "mediaMode": "mesh", "recordRoom": true } });
        let wrong = patch(&AppSettings::default(), &given).unwrap_err();
        assert_eq!(wrong[0].setting, "roomDefaults.recordRoom");
    }

    #[test]
    fn what_is_no_setting_is_told_and_not_kept() {
        let given = json!({
            "brand": 1, "branding": { "nam": "x", "corners": "round" }, "retention": null,
            "roomDefaults": { "maxPeople": 5, "metadata": { "a": 1 }, "lockSettings": { "chat": true } },
        });
        let Patched { settings, unknown } = patch(&AppSettings::default(), &given).unwrap();
        assert_eq!(unknown, ["brand", "branding.nam", "roomDefaults.maxPeople"]);
        assert!(
            !Value::Object(settings.document())
                .to_string()
                .contains("maxPeople")
        );
    }

    #[test]
    fn an_origin_is_kept_as_browsers_send_it_and_nothing_else_is_one() {
        for (given, kept) in [
            ("https://Example.com", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(origin(given).as_deref(), Some(kept));
        }
        let long = format!("https://{}.example", "a".repeat(300));
        for wrong in [
            "",
            "*",
            "example.com",
            "ftp://example.com",
            "https://a@example.com",
            "https://example.com/page",
            "https://example.com?x",
            "https://example.com#x",
            "https://*.example.com",
            "https://a;script-src",
            "https://a'b",
            "https://a,b",
            "null",
            &long,
        ] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
        let listed = set(
            &json!({ "embedOrigins": "https://a.example, https://b.example,https://a.example:443" }),
        );
        assert_eq!(
            listed.frame_ancestors(),
            "'self' https://a.example https://b.example"
        );
        assert_eq!(
            set(&json!({ "embedOrigins": [] })).frame_ancestors(),
            "'self'"
        );
        assert_eq!(AppSettings::default().frame_ancestors(), "*");
        let many: Vec<String> = (0..21).map(|n| format!("https://{n}.example")).collect();
        assert!(patch(&AppSettings::default(), &json!({ "embedOrigins": many })).is_err());
    }

    #[test]
    fn a_contact_is_one_plain_address() {
        for right in ["ops@example.com", "a.b+c@meet.example.co.uk"] {
            assert_eq!(
                set(&json!({ "contactEmail": right })).contact_email,
                Some(Email(right.to_owned()))
            );
        }
        for wrong in [
            "ops",
            "ops@localhost",
            "Ops <ops@example.com>",
            "a@b@example.com",
            "ops@[127.0.0.1]",
            "a b@x.org",
            "ops@example.com\r\nBcc: x@y.org",
        ] {
            assert!(
                patch(&AppSettings::default(), &json!({ "contactEmail": wrong })).is_err(),
                "{wrong}"
            );
        }
    }

    proptest! {
        /// Whatever is sent, reading it does not panic; what was accepted is stored and read back as it is, and can be sent
        /// back as it is.
        #[test]
        fn what_is_accepted_is_stored_and_read_back(path in any_path(), value in any_value()) {
            let mut given = value;
            for name in path.rsplit('.') {
                given = json!({ name: given });
            }
            if let Ok(Patched { settings, .. }) = patch(&AppSettings::default(), &given) {
                let stored = Value::Object(settings.document());
                prop_assert_eq!(&serde_json::from_value::<AppSettings>(stored.clone()).unwrap(), &settings);
                prop_assert_eq!(&patch(&AppSettings::default(), &stored).unwrap().settings, &settings);
            }
        }
    }

    fn any_path() -> impl Strategy<Value = String> {
        proptest::sample::select(AppSettings::names())
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..5000_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,40}".prop_map(Value::from),
            "(#[0-9A-F]{6}|dark|round|mesh|https://[a-z.*;]{1,9}(:[0-9]{1,5})?|[a-z]{1,5}@[a-z]{1,5}.org)".prop_map(Value::from),
            proptest::collection::vec("https?://[a-z]{1,9}".prop_map(Value::from), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{0,8}", any::<bool>(), 0..3).prop_map(|map| json!(map)),
        ]
    }
}
