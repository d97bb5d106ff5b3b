//! Admission: the one place that says who may come in.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Block, Identity, JoinRequest, Participant, Role, State};
use crate::{
    id::{ParticipantId, TokenId},
    rooms::{AddressHash, DuplicateUser, PasswordHash, Privacy, Room, RoomName, Rules},
    tokens::{self, Claims},
};

/// Why somebody does not get in, or what they asked for does not happen. The message tells them what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such room.
    #[error("This room does not exist. Check the link, or ask whoever sent it.")]
    RoomNotFound,
    /// The room is not open yet.
    #[error("This room is not open yet. Come back when the meeting begins.")]
    RoomNotOpen {
        /// When it opens.
        opens_at: DateTime<Utc>,
    },
    /// The room's time is over.
    #[error("This room has expired. Ask the host for a new link.")]
    RoomExpired,
    /// The room is private.
    #[error("This room is private. Open the personal link that you were sent.")]
    TokenRequired,
    /// The room's meetings are opened by calls, and none is.
    #[error("This meeting has not been opened yet. Try again when the host has opened it.")]
    MeetingNotOpen,
    /// The token is none, or not for this room.
    #[error("Your personal link is not valid for this room. Ask whoever sent it for a new one.")]
    TokenInvalid,
    /// The token's time is over.
    #[error("Your personal link has expired. Ask whoever sent it for a new one.")]
    TokenExpired,
    /// The token's time is still to come.
    #[error(
        "Your personal link is not valid yet. Open it again when the meeting is about to start."
    )]
    TokenNotYetValid,
    /// The room has a password, and none or a wrong one was given.
    #[error("This room has a password, and yours is not right. Ask the host for it{}.", after(*retry_after_sec))]
    InvalidPassword {
        /// After too many wrong ones: in how many seconds one is looked at again.
        retry_after_sec: Option<u64>,
    },
    /// They were put out of this meeting.
    #[error("You were removed from this meeting, and can join again once it is over.")]
    Ejected,
    /// Somebody with the same `externalUserId` is in.
    #[error("You are in this meeting already. Leave it there to join here.")]
    DuplicateUser,
    /// The room is locked.
    #[error("This room is locked. Ask the host to let you in.")]
    RoomLocked,
    /// Only moderators may do that; what.
    #[error("Only moderators can {0}")]
    Unauthorized(&'static str),
    /// Who is meant is not in the meeting, or does not wait.
    #[error("Target participant not found")]
    TargetNotFound,
    /// The meeting has no end that could be moved.
    #[error(
        "this meeting has no end to move: its room has no meetingDurationSec, or nobody has joined yet"
    )]
    NoTimeLimit,
    /// All places are taken.
    #[error("This room is full. Try again when somebody has left.")]
    RoomFull,
    /// The meeting ended before this could happen.
    #[error("This meeting has ended.")]
    MeetingEnded,
    /// The person is not in a meeting.
    #[error("Join a room first.")]
    NotJoined,
    /// The resume token is unknown, or its time is over.
    #[error("This connection cannot be resumed. Join again.")]
    ResumeFailed,
    /// The room changed while this was decided: it is to be asked again.
    #[error("This room was changed this moment. Try again.")]
    RoomChanged,
    /// They have made too many rooms.
    #[error("Too many rooms were made from your network. Use one of them, or try again{}.", after(*retry_after_sec))]
    QuotaExceeded {
        /// In how many seconds another may be made, where that is known.
        retry_after_sec: Option<u64>,
    },
    /// They were gone before they were told that they are in.
    #[error("You left before you were let in.")]
    JoinAborted,
    /// The room's rules do not allow this to the person.
    #[error("This room does not allow you {0}.")]
    NotAllowed(&'static str),
    /// Media flows through the SFU here, and not from one to another.
    #[error("In this room media goes through the server: offer it to \"sfu\".")]
    MeshNotAllowed,
    /// Media flows from one to another here, and not through the SFU.
    #[error("In this room media goes from one person to another, and not to \"sfu\".")]
    SfuNotAllowed,
    /// We cannot do it at the moment.
    #[error("The server is busy. Try again in a few seconds.")]
    TryAgain,
}

/// When to try again, to follow a sentence.
fn after(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |seconds| {
        format!(", in {seconds} s at the earliest")
    })
}

/// What a token gives to its bearer in one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which token.
    pub token: TokenId,
    /// What its bearer may do.
    pub role: Role,
    /// The name that the others see, whatever the bearer says.
    pub name: Option<String>,
    /// Who the app says that its bearer is.
    pub identity: Arc<Identity>,
    /// How long the stay may last; goes before the room's.
    pub eject_after: Option<TimeDelta>,
    /// From when on nobody can join with it.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether its bearer is put out then.
    pub eject_at_expiry: bool,
}

impl Grant {
    /// What a token that is valid by itself gives in `room`.
    ///
    /// # Errors
    ///
    /// [`Refusal::TokenInvalid`] where it is for another room.
    pub fn new(claims: Claims, room: &RoomName) -> Result<Self, Refusal> {
        if !claims.open(room) {
            return Err(Refusal::TokenInvalid);
        }
        let expires_at = claims.expires_at();
        let data = claims.data;
        Ok(Self {
            token: claims.jti,
            role: if data.is_admin == Some(true) {
                Role::Moderator
            } else {
                Role::Participant
            },
            name: data.name,
            identity: Arc::new(Identity {
                external_user_id: data.external_user_id,
                email: data.email,
                meta: data.meta,
            }),
            eject_after: data.eject_after_elapsed_time_in_sec.map(TimeDelta::from),
            expires_at,
            eject_at_expiry: data.eject_at_token_exp == Some(true),
        })
    }
}

impl Refusal {
    /// The stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoomNotFound => "ROOM_NOT_FOUND",
            Self::RoomNotOpen { .. } => "ROOM_NOT_OPEN",
            Self::RoomExpired => "ROOM_EXPIRED",
            Self::MeetingNotOpen => "MEETING_NOT_OPEN",
            Self::TokenRequired => "TOKEN_REQUIRED",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenNotYetValid => "TOKEN_NOT_YET_VALID",
            Self::InvalidPassword { .. } => "INVALID_PASSWORD",
            Self::Ejected => "EJECTED",
            Self::DuplicateUser => "DUPLICATE_USER",
            Self::RoomLocked => "ROOM_LOCKED",
            Self::Unauthorized(_) => "UNAUTHORIZED",
            Self::TargetNotFound => "TARGET_NOT_FOUND",
            Self::NoTimeLimit => "NO_TIME_LIMIT",
            Self::RoomFull => "ROOM_FULL",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::MeetingEnded => "MEETING_ENDED",
            Self::JoinAborted => "JOIN_ABORTED",
            Self::NotJoined => "NOT_JOINED",
            Self::NotAllowed(_) => "NOT_ALLOWED",
            Self::MeshNotAllowed => "MESH_NOT_ALLOWED",
            Self::SfuNotAllowed => "SFU_NOT_ALLOWED",
            Self::ResumeFailed => "RESUME_FAILED",
            Self::RoomChanged | Self::TryAgain => "TRY_AGAIN",
        }
    }

    /// In how many seconds to try again, where that is known.
    pub fn retry_after_sec(&self) -> Option<u64> {
        match self {
            Self::InvalidPassword { retry_after_sec } | Self::QuotaExceeded { retry_after_sec } => {
                *retry_after_sec
            }
            _ => None,
        }
    }

    /// Whether the app is told that somebody was refused so: what a rule of the room decided, and not what passes by itself.
    pub fn is_announced(&self) -> bool {
        match self {
            Self::RoomNotOpen { .. }
            | Self::RoomExpired
            | Self::MeetingNotOpen
            | Self::TokenRequired
            | Self::TokenInvalid
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::InvalidPassword { .. }
            | Self::Ejected
            | Self::DuplicateUser
            | Self::RoomLocked
            | Self::RoomFull
            | Self::JoinAborted => true,
            Self::RoomNotFound
            | Self::Unauthorized(_)
            | Self::TargetNotFound
            | Self::NotAllowed(_)
            | Self::MeshNotAllowed
            | Self::SfuNotAllowed
            | Self::NoTimeLimit
            | Self::QuotaExceeded { .. }
            | Self::MeetingEnded
            | Self::NotJoined
            | Self::ResumeFailed
            | Self::RoomChanged
            | Self::TryAgain => false,
        }
    }

    /// What is said of a token that is refused; `None` where nothing is known of it, because it could not be looked into.
    pub fn of_token(error: &tokens::Error) -> Option<Self> {
        match error {
            tokens::Error::Invalid => Some(Self::TokenInvalid),
            tokens::Error::Expired => Some(Self::TokenExpired),
            tokens::Error::NotYetValid => Some(Self::TokenNotYetValid),
            tokens::Error::Contradictions(_)
            | tokens::Error::TooLong
            | tokens::Error::Unsigned
            | tokens::Error::Sealed(_)
            | tokens::Error::Database(_) => None,
        }
    }
}

/// Whether the room is open to anybody at `now`. Asked before a token is looked at.
///
/// # Errors
///
/// [`Refusal::RoomNotOpen`], [`Refusal::RoomExpired`].
pub fn check_time(rules: &Rules, now: DateTime<Utc>) -> Result<(), Refusal> {
    if let Some(opens_at) = rules.opens_at().filter(|opens_at| now < *opens_at) {
        return Err(Refusal::RoomNotOpen { opens_at });
    }
    if rules
        .expires_at()
        .is_some_and(|expires_at| now >= expires_at)
    {
        Err(Refusal::RoomExpired)
    } else {
        Ok(())
    }
}

/// Who wants in, as far as that decides whether they may.
#[derive(Clone, Copy, Debug, Default)]
pub struct Applicant<'a> {
    /// What their token gives, where they have shown one.
    pub grant: Option<&'a Grant>,
    /// The password's hash that theirs was found to match.
    pub password: Option<&'a PasswordHash>,
    /// Whether they have shown the token of the room's creator.
    pub is_creator: bool,
    /// Where they come from.
    pub address: Option<&'a AddressHash>,
}

impl<'a> From<&'a JoinRequest> for Applicant<'a> {
    fn from(request: &'a JoinRequest) -> Self {
        Self {
            grant: request.grant.as_ref(),
            password: request.password.as_ref(),
            is_creator: request.is_creator,
            address: request.address.as_ref(),
        }
    }
}

impl Applicant<'_> {
    /// What they may do once they are in, by what they have shown.
    pub fn role(&self) -> Role {
        if self.is_creator {
            Role::Moderator
        } else {
            self.grant.map_or(Role::Participant, |grant| grant.role)
        }
    }

    fn external_user_id(&self) -> Option<&str> {
        self.grant?.identity.external_user_id.as_deref()
    }

    /// Whether they were put out of the meeting before.
    fn is_blocked(&self, state: &State) -> bool {
        // By their address only those are kept out of whom nothing else is known.
        let by = match self.grant {
            Some(grant) => {
                let person = grant.identity.external_user_id.clone().map(Block::Person);
                [Some(Block::Token(grant.token)), person]
            }
            None => [self.address.copied().map(Block::Address), None],
        };
        by.iter()
            .flatten()
            .any(|block| state.blocked.contains(block))
    }
}

/// How somebody comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayIn {
    /// The stays that end by it: those of the same person, with `duplicateUser: replace`.
    pub replaced: Vec<ParticipantId>,
    /// Whether a moderator has to let them in first.
    pub must_wait: bool,
}

/// Whether the room lets one more in, into its meeting where it has one.
///
/// # Errors
///
/// [`Refusal::RoomNotOpen`], [`Refusal::RoomExpired`], [`Refusal::TokenExpired`], [`Refusal::TokenRequired`],
/// [`Refusal::InvalidPassword`], [`Refusal::RoomChanged`] where the password was checked against another,
/// [`Refusal::Ejected`], [`Refusal::DuplicateUser`], [`Refusal::RoomLocked`], [`Refusal::RoomFull`], whichever comes first
/// in this order.
pub fn check(
    room: &Room,
    applicant: &Applicant<'_>,
    meeting: Option<&State>,
    now: DateTime<Utc>,
) -> Result<WayIn, Refusal> {
    check_time(&room.rules, now)?;
    check_credentials(room, applicant, now)?;
    if meeting.is_some_and(|state| applicant.is_blocked(state)) {
        return Err(Refusal::Ejected);
    }
    let inside = meeting.map_or(&[][..], |state| &state.participants);
    let replaced = replaced(room.rules.duplicate_user, applicant, inside)?;
    let inside = inside.len() - replaced.len();
    let must_wait = must_wait(room, applicant, meeting, inside)?;
    check_place(room, inside)?;
    Ok(WayIn {
        replaced,
        must_wait,
    })
}

/// Whether one who waited comes in, now that a moderator says so: whatever else speaks against it still does. Returns the
/// stays that end by it.
///
/// # Errors
///
/// As [`check`], without [`Refusal::RoomLocked`].
pub fn check_admitted(
    state: &State,
    applicant: &Applicant<'_>,
    now: DateTime<Utc>,
) -> Result<Vec<ParticipantId>, Refusal> {
    let room = &state.room;
    check_time(&room.rules, now)?;
    check_credentials(room, applicant, now)?;
    if applicant.is_blocked(state) {
        return Err(Refusal::Ejected);
    }
    let replaced = replaced(room.rules.duplicate_user, applicant, &state.participants)?;
    check_place(room, state.participants.len() - replaced.len())?;
    Ok(replaced)
}

/// Whether they have to wait until a moderator lets them in; in a locked meeting where none is, they are refused.
fn must_wait(
    room: &Room,
    applicant: &Applicant<'_>,
    meeting: Option<&State>,
    inside: usize,
) -> Result<bool, Refusal> {
    if applicant.role() == Role::Moderator {
        return Ok(false);
    }
    if meeting.map_or(room.rules.locked, State::is_locked) {
        let is_moderated = meeting.is_some_and(|state| state.moderators().next().is_some());
        return if is_moderated {
            Ok(true)
        } else {
            Err(Refusal::RoomLocked)
        };
    }
    // Whoever is to moderate because nobody is in would wait for nobody.
    let leads = room.rules.first_joiner_moderates && inside == 0;
    Ok(room.rules.waiting_room && !leads || knocks(room, applicant))
}

/// Whether there is a place beside those who are in already.
fn check_place(room: &Room, inside: usize) -> Result<(), Refusal> {
    let places = room.rules.max_participants.map_or(usize::MAX, |places| {
        usize::try_from(places).unwrap_or(usize::MAX)
    });
    if inside >= places {
        Err(Refusal::RoomFull)
    } else {
        Ok(())
    }
}

/// Whether they have nothing that the private room asks for, and may ask to be let in all the same.
fn knocks(room: &Room, applicant: &Applicant<'_>) -> bool {
    let rules = &room.rules;
    let has_shown = applicant.grant.is_some() || applicant.password.is_some();
    rules.privacy == Privacy::Private && rules.enable_request_to_join && !has_shown
}

/// Whether they have shown what the room asks for. A token goes before the password; the creator's token does not.
fn check_credentials(
    room: &Room,
    applicant: &Applicant<'_>,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let expired = |grant: &Grant| grant.expires_at.is_some_and(|expires_at| now >= expires_at);
    match (applicant.grant, &room.password, applicant.password) {
        (Some(grant), ..) if expired(grant) => Err(Refusal::TokenExpired),
        (Some(_), ..) => Ok(()),
        (None, ..) if knocks(room, applicant) => Ok(()),
        (None, None, _) if room.rules.privacy == Privacy::Private => Err(Refusal::TokenRequired),
        (None, None, _) => Ok(()),
        (None, Some(_), None) => Err(Refusal::InvalidPassword {
            retry_after_sec: None,
        }),
        (None, Some(hash), Some(matched)) if hash == matched => Ok(()),
        (None, Some(_), Some(_)) => Err(Refusal::RoomChanged),
    }
}

/// The stays of the same person that end when they join once more.
fn replaced(
    rule: DuplicateUser,
    applicant: &Applicant<'_>,
    inside: &[Participant],
) -> Result<Vec<ParticipantId>, Refusal> {
    let Some(own) = applicant.external_user_id() else {
        return Ok(Vec::new());
    };
    let same = inside
        .iter()
        .filter(|known| known.identity.external_user_id.as_deref() == Some(own))
        .map(|known| known.id);
    match rule {
        DuplicateUser::Allow => Ok(Vec::new()),
        DuplicateUser::Replace => Ok(same.collect()),
        DuplicateUser::Refuse if same.count() > 0 => Err(Refusal::DuplicateUser),
        DuplicateUser::Refuse => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::{AppId, MeetingId, RoomId},
        meetings::{Connection, Permissions, Shown, Status},
        rooms::property::UnixSec,
        webhooks::RoomUrls,
    };

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_900_000_000, 0).unwrap()
    }

    /// Everything that can speak against a join, by itself.
    #[derive(Clone, Debug)]
    struct Case {
        opens_in: Option<i64>,
        expires_in: Option<i64>,
        is_private: bool,
        has_password: bool,
        /// The password's hash that theirs matched: none, the room's, or one that it had before.
        matched: Option<bool>,
        token: Token,
        is_creator: bool,
        blocked: HashSet<Block>,
        duplicate: DuplicateUser,
        is_inside: bool,
        is_locked: bool,
        places: Option<u32>,
        others: u8,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Token {
        None,
        Expired,
        OfParticipant,
        OfModerator,
    }

    const TOKEN: TokenId = TokenId::from_bytes([7; 12]);
    const ADDRESS: AddressHash = AddressHash([8; 32]);

    fn hash(text: &str) -> PasswordHash {
        PasswordHash::from_stored(text.to_owned())
    }

    fn case() -> impl Strategy<Value = Case> {
        let seconds = prop::option::of(prop::sample::select(vec![-1_i64, 0, 1]));
        let token = prop::sample::select(vec![
            Token::None,
            Token::Expired,
            Token::OfParticipant,
            Token::OfModerator,
        ]);
        let blocks = vec![
            Block::Token(TOKEN),
            Block::Token(TokenId::from_bytes([9; 12])),
            Block::Person("42".to_owned()),
            Block::Address(ADDRESS),
        ];
        let blocked = prop::sample::subsequence(blocks, 0..=2);
        let duplicate = prop::sample::select(vec![
            DuplicateUser::Allow,
            DuplicateUser::Refuse,
            DuplicateUser::Replace,
        ]);
        let of_room = (seconds.clone(), seconds, any::<(bool, bool)>());
        let shown = (prop::option::of(any::<bool>()), token, any::<bool>());
        let inside = (blocked, duplicate, any::<(bool, bool)>());
        let places = (prop::option::of(1_u32..4), 0_u8..4);
        (of_room, shown, inside, places).prop_map(
            |(
                (opens_in, expires_in, (is_private, has_password)),
                (matched, token, is_creator),
                (blocked, duplicate, (is_inside, is_locked)),
                (places, others),
            )| Case {
                opens_in,
                expires_in,
                is_private,
                has_password,
                matched,
                token,
                is_creator,
                blocked: blocked.into_iter().collect(),
                duplicate,
                is_inside,
                is_locked,
                places,
                others,
            },
        )
    }

    fn stay(number: u8, identity: &Arc<Identity>) -> Participant {
        Participant {
            id: ParticipantId::from_bytes([number; 12]),
            name: "p".to_owned(),
            role: Role::Participant,
            token: None,
            identity: identity.clone(),
            device: Arc::default(),
            address: None,
            joined_at: now(),
            time_up_at: None,
            has_own_limit: false,
            token_expires_at: None,
            resume: None,
            away: None,
            connection: Connection(number.into()),
            shown: Shown::default(),
            permissions: Permissions::new(),
            sharing: super::super::Sharing::default(),
            warned: Vec::new(),
        }
    }

    impl Case {
        fn room(&self) -> Room {
            let at = |seconds: i64| UnixSec(now() + TimeDelta::seconds(seconds));
            let rules = Rules {
                privacy: if self.is_private {
                    Privacy::Private
                } else {
                    Privacy::Public
                },
                not_before: self.opens_in.map(at),
                expires: self.expires_in.map(at),
                duplicate_user: self.duplicate,
                locked: self.is_locked,
                max_participants: self.places,
                ..Rules::default()
            };
            Room {
                id: RoomId::from_bytes([1; 12]),
                app_id: AppId::from_bytes([2; 12]),
                name: "standup".parse().unwrap(),
                rules,
                webhooks: RoomUrls::default(),
                password: self.has_password.then(|| hash("now")),
                rtmp_out_url: None,
                anonymous: false,
                creator: None,
                version: 0,
                created_at: now(),
                archived_at: None,
            }
        }

        fn state(&self, person: &Arc<Identity>) -> State {
            let own = self.is_inside.then(|| stay(100, person));
            let others = (0..self.others).map(|number| stay(number, &Arc::default()));
            State {
                id: MeetingId::from_bytes([3; 12]),
                status: Status::Live,
                room: self.room(),
                participants: own.into_iter().chain(others).collect(),
                blocked: Arc::new(self.blocked.clone()),
                waiting: Vec::new(),
                locked: None,
                extended_by: TimeDelta::zero(),
                participant_count: 0,
                max_concurrent: 0,
                created_at: now(),
                started_at: Some(now()),
                empty_since: None,
                one_left_since: None,
                last_shared_at: None,
                ruled_at: now(),
                warned: Vec::new(),
                last_at: now(),
                next_seq: 1,
            }
        }

        /// What the documentation says, in its order.
        fn expected(&self) -> Result<usize, &'static str> {
            let has_token = self.token != Token::None;
            let is_known = has_token && self.is_inside;
            let replaced = usize::from(is_known && self.duplicate == DuplicateUser::Replace);
            let inside = usize::from(self.is_inside) + usize::from(self.others) - replaced;
            let blocks = |block: Block| self.blocked.contains(&block);
            let is_blocked = if has_token {
                blocks(Block::Token(TOKEN)) || blocks(Block::Person("42".to_owned()))
            } else {
                blocks(Block::Address(ADDRESS))
            };
            let moderates = self.is_creator || self.token == Token::OfModerator;
            let asks_password = !has_token && self.has_password;
            let reasons = [
                (self.opens_in.is_some_and(|at| at > 0), "ROOM_NOT_OPEN"),
                (self.expires_in.is_some_and(|at| at <= 0), "ROOM_EXPIRED"),
                (self.token == Token::Expired, "TOKEN_EXPIRED"),
                (
                    !has_token && self.is_private && !self.has_password,
                    "TOKEN_REQUIRED",
                ),
                (asks_password && self.matched.is_none(), "INVALID_PASSWORD"),
                (asks_password && self.matched == Some(false), "TRY_AGAIN"),
                (is_blocked, "EJECTED"),
                (
                    is_known && self.duplicate == DuplicateUser::Refuse,
                    "DUPLICATE_USER",
                ),
                (self.is_locked && !moderates, "ROOM_LOCKED"),
                (
                    self.places.is_some_and(|places| inside >= places as usize),
                    "ROOM_FULL",
                ),
            ];
            match reasons
                .into_iter()
                .find(|(speaks_against, _)| *speaks_against)
            {
                Some((_, code)) => Err(code),
                None => Ok(replaced),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn whoever_is_refused_hears_the_first_reason_in_the_order_of_the_documentation(case in case()) {
            let person = Arc::new(Identity { external_user_id: Some("42".to_owned()), ..Identity::default() });
            let grant = Grant {
                token: TOKEN,
                role: if case.token == Token::OfModerator { Role::Moderator } else { Role::Participant },
                name: None,
                identity: person.clone(),
                eject_after: None,
                expires_at: (case.token == Token::Expired).then(now),
                eject_at_expiry: false,
            };
            let matched = case.matched.map(|is_current| hash(if is_current { "now" } else { "before" }));
            let applicant = Applicant {
                grant: Some(&grant).filter(|_| case.token != Token::None),
                password: matched.as_ref(),
                is_creator: case.is_creator,
                address: Some(&ADDRESS),
            };
            let outcome = check(&case.room(), &applicant, Some(&case.state(&person)), now());
            let outcome = outcome.map(|way| way.replaced.len()).map_err(|refusal| refusal.code());
            prop_assert_eq!(outcome, case.expected());
        }
    }
}
