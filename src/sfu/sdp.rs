//! What a client's offer asks for, and the answer to it (RFC 8866, RFC 8829, RFC 9143).
//!
//! Offers come from clients only. The syntax is read by the `rtc-sdp` crate; this file knows what we make of it: everything
//! in one bundle over one path, VP8 and Opus under the client's numbers, and a sentence for whatever we refuse.

use std::{
    fmt::{self, Write},
    io::Cursor,
    net::SocketAddr,
};

use rtc_sdp::{MediaDescription, SessionDescription, description::common::Attribute};

use super::{dtls::Fingerprint, ice::Credentials};

/// Why an offer is refused; the message is for whoever wrote the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// More bytes than any honest offer has.
    #[error("the offer is larger than {} KiB", OFFER_LIMIT / 1024)]
    TooLarge,
    /// Not SDP.
    #[error("the offer is not valid SDP: {0}")]
    Syntax(String),
    /// More m-lines than are served.
    #[error("the offer has more than {SECTIONS} m-lines")]
    TooManySections,
    /// Something that every WebRTC offer has is not there.
    #[error("the offer has no {0}")]
    Missing(&'static str),
    /// An m-line lacks something, or has it wrong.
    #[error("m-line {mid:?}: {problem}")]
    Section {
        /// Its `a=mid`, or its position when it has none.
        mid: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The client wants the server to begin the DTLS handshake.
    #[error(
        "a=setup must be actpass or active, because the server waits for the client's DTLS handshake"
    )]
    Setup,
    /// No certificate hash that we trust.
    #[error("no a=fingerprint with sha-256, sha-384 or sha-512")]
    Fingerprint,
    /// The peer cannot be served now.
    #[error("the media worker cannot take another connection")]
    Full,
}

/// What an m-line carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Opus, 48 kHz.
    Audio,
    /// VP8, 90 kHz.
    Video,
}

impl Kind {
    /// Ticks per second of the RTP timestamp.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Audio => 48_000,
            Self::Video => 90_000,
        }
    }

    const fn encoding(self) -> &'static str {
        match self {
            Self::Audio => "opus/48000/2",
            Self::Video => "VP8/90000",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// An offer that can be answered.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The client's ICE user name fragment; another one than before restarts ICE.
    pub ufrag: String,
    /// Hashes of the certificate the client will show; it must match one.
    pub fingerprints: Vec<Fingerprint>,
    /// The m-lines in their order.
    pub sections: Vec<Section>,
}

/// One m-line.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name within the connection.
    pub mid: String,
    /// Whether the client wants to send on it.
    pub sends: bool,
    /// Whether the client wants to receive on it.
    pub receives: bool,
    /// What can be carried; `None` when we must refuse it for its kind, its protocol or its codecs.
    pub media: Option<Media>,
    /// The `m=` line's kind, protocol and formats, which a refusal repeats.
    line: (String, String, String),
}

/// What an m-line carries and under which numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// Audio or video.
    pub kind: Kind,
    /// The client's number of our codec.
    pub payload_type: u8,
    /// The client's number of the extension that names the m-line in a packet.
    pub mid_extension: Option<u8>,
    /// The client's number of the audio level extension.
    pub audio_level_extension: Option<u8>,
    /// The streams the client says it will send.
    pub sources: Vec<u32>,
    /// Which feedback the client can send or take for this codec.
    pub feedback: Feedback,
    /// What the client would like the encoder to do (`a=fmtp`), which is repeated when we send.
    parameters: Option<String>,
}

/// Control messages that an m-line may use (`a=rtcp-fb`); what the client offers of these, we agree to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// Asking for lost packets.
    pub nack: bool,
    /// Asking for a key frame (PLI).
    pub pli: bool,
    /// Asking for a key frame (FIR).
    pub fir: bool,
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    ///
    /// When it cannot be answered, with the reason.
    pub fn parse(text: &str) -> Result<Self, NegotiationError> {
        if text.len() > OFFER_LIMIT {
            return Err(NegotiationError::TooLarge);
        }
        let mut lines = text
            .split_inclusive('\n')
            .map(|line| line.strip_suffix('\n').unwrap_or(line));
        if lines.any(|line| {
            line.strip_suffix('\r')
                .unwrap_or(line)
                .contains(|c: char| c.is_control() && c != '\t')
        }) {
            return Err(NegotiationError::Syntax(
                "it has control characters".to_owned(),
            ));
        }
        let session = SessionDescription::unmarshal(&mut Cursor::new(text))
            .map_err(|error| NegotiationError::Syntax(error.to_string()))?;
        if session.media_descriptions.len() > SECTIONS {
            return Err(NegotiationError::TooManySections);
        }
        let bundle: Vec<&str> = session
            .attributes
            .iter()
            .filter(|attribute| attribute.key == "group")
            .find_map(|attribute| attribute.value.as_deref()?.strip_prefix("BUNDLE "))
            .ok_or(NegotiationError::Missing("a=group:BUNDLE"))?
            .split_ascii_whitespace()
            .collect();
        let mut sections: Vec<Section> = Vec::new();
        for (position, media) in session.media_descriptions.iter().enumerate() {
            let section = section(media, position, &bundle)?;
            if sections.iter().any(|other| other.mid == section.mid) {
                return Err(section.wrong("its a=mid is used twice"));
            }
            sections.push(section);
        }
        if sections.iter().all(|section| section.media.is_none()) {
            return Err(NegotiationError::Missing("m-line with VP8 or Opus"));
        }
        // The first bundled m-line speaks for all (RFC 9143, section 7.2).
        let tag = session
            .media_descriptions
            .iter()
            .find(|media| is_used(media))
            .ok_or(NegotiationError::Missing("m-line that is in use"))?;
        let shared = |key| value(&tag.attributes, key).or_else(|| value(&session.attributes, key));
        let ufrag = shared("ice-ufrag").ok_or(NegotiationError::Missing("a=ice-ufrag"))?;
        shared("ice-pwd").ok_or(NegotiationError::Missing("a=ice-pwd"))?;
        if !(4..=256).contains(&ufrag.len()) {
            return Err(NegotiationError::Missing(
                "a=ice-ufrag of 4 to 256 characters",
            ));
        }
        if !matches!(shared("setup"), None | Some("actpass" | "active")) {
            return Err(NegotiationError::Setup);
        }
        let fingerprints: Vec<Fingerprint> = [&tag.attributes, &session.attributes]
            .into_iter()
            .flat_map(|attributes| values(attributes, "fingerprint"))
            .filter_map(Fingerprint::parse)
            .take(FINGERPRINTS)
            .collect();
        if fingerprints.is_empty() {
            return Err(NegotiationError::Fingerprint);
        }
        Ok(Self {
            ufrag: ufrag.to_owned(),
            fingerprints,
            sections,
        })
    }
}

impl Section {
    /// The error that this m-line has a problem.
    pub fn wrong(&self, problem: &'static str) -> NegotiationError {
        NegotiationError::Section {
            mid: self.mid.clone(),
            problem,
        }
    }
}

fn section(
    media: &MediaDescription,
    position: usize,
    bundle: &[&str],
) -> Result<Section, NegotiationError> {
    let wrong = |mid: &str, problem| NegotiationError::Section {
        mid: mid.to_owned(),
        problem,
    };
    let mid = value(&media.attributes, "mid")
        .ok_or_else(|| wrong(&position.to_string(), "it has no a=mid"))?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte);
    if !(1..=MID_LENGTH).contains(&mid.len()) || !mid.bytes().all(token) {
        return Err(wrong(
            &position.to_string(),
            "its a=mid is not a token of 1 to 32 characters",
        ));
    }
    let name = &media.media_name;
    let direction = ["sendrecv", "sendonly", "recvonly", "inactive"]
        .into_iter()
        .find(|direction| media.has_attribute(direction))
        .unwrap_or("sendrecv");
    let mut section = Section {
        mid: mid.to_owned(),
        sends: matches!(direction, "sendrecv" | "sendonly"),
        receives: matches!(direction, "sendrecv" | "recvonly"),
        media: None,
        line: (
            name.media.clone(),
            name.protos.join("/"),
            name.formats.join(" "),
        ),
    };
    let kind = match name.media.as_str() {
        "audio" => Kind::Audio,
        "video" => Kind::Video,
        _ => return Ok(section),
    };
    if !is_used(media) || section.line.1 != PROTOCOL {
        return Ok(section);
    }
    if !bundle.contains(&mid) {
        return Err(section.wrong("it is not in a=group:BUNDLE, and all media share one path"));
    }
    if !media.has_attribute("rtcp-mux") {
        return Err(section.wrong("it has no a=rtcp-mux, and control packets share the path"));
    }
    section.media = self::media(media, kind);
    Ok(section)
}

/// Port zero means that an m-line is not used, unless it waits for the bundle (RFC 9143, section 6).
fn is_used(media: &MediaDescription) -> bool {
    media.media_name.port.value != 0 || media.has_attribute("bundle-only")
}

fn media(media: &MediaDescription, kind: Kind) -> Option<Media> {
    let payload_type = media.media_name.formats.iter().find_map(|format| {
        let encoding = numbered(&media.attributes, "rtpmap", format)?;
        let number: u8 = format.parse().ok()?;
        // 64 to 95 cannot be told from control packets on one path (RFC 5761, section 4).
        (encoding.eq_ignore_ascii_case(kind.encoding()) && matches!(number, 0..=63 | 96..=127))
            .then_some(number)
    })?;
    let extension = |uri| {
        values(&media.attributes, "extmap").find_map(|value| {
            let mut words = value.split_ascii_whitespace();
            let id: u8 = words.next()?.split('/').next()?.parse().ok()?;
            // Numbers above 14 need the longer form of extensions, which we do not write.
            (words.next() == Some(uri) && (1..=14).contains(&id)).then_some(id)
        })
    };
    let mut sources: Vec<u32> = values(&media.attributes, "ssrc")
        .filter_map(|value| value.split_ascii_whitespace().next()?.parse().ok())
        .collect();
    sources.dedup();
    sources.truncate(SOURCES);
    Some(Media {
        kind,
        payload_type,
        mid_extension: extension(MID),
        audio_level_extension: if kind == Kind::Audio {
            extension(AUDIO_LEVEL)
        } else {
            None
        },
        sources,
        feedback: feedback(&media.attributes, payload_type),
        parameters: numbered(&media.attributes, "fmtp", &payload_type.to_string())
            .filter(|parameters| parameters.len() <= 256)
            .map(str::to_owned),
    })
}

fn feedback(attributes: &[Attribute], payload_type: u8) -> Feedback {
    let mut feedback = Feedback::default();
    for format in [payload_type.to_string().as_str(), "*"] {
        for value in values(attributes, "rtcp-fb") {
            match value
                .split_once(' ')
                .filter(|(number, _)| *number == format)
            {
                Some((_, "nack")) => feedback.nack = true,
                Some((_, "nack pli")) => feedback.pli = true,
                Some((_, "ccm fir")) => feedback.fir = true,
                _ => {}
            }
        }
    }
    feedback
}

/// The value of the first attribute with this key.
fn value<'a>(attributes: &'a [Attribute], key: &'a str) -> Option<&'a str> {
    values(attributes, key).next()
}

fn values<'a>(attributes: &'a [Attribute], key: &'a str) -> impl Iterator<Item = &'a str> {
    attributes
        .iter()
        .filter(move |attribute| attribute.key == key)
        .filter_map(|attribute| attribute.value.as_deref())
}

/// What an attribute such as `rtpmap` says of one format.
fn numbered<'a>(attributes: &'a [Attribute], key: &'a str, format: &str) -> Option<&'a str> {
    values(attributes, key).find_map(|value| {
        let (number, rest) = value.split_once(' ')?;
        (number == format).then(|| rest.trim())
    })
}

/// What becomes of an m-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client may not send what it wants to send on it, for now.
    Inactive,
    /// The client sends.
    Track,
    /// We send, as this stream.
    Slot(u32),
}

/// Our side of a connection, as the answer tells it.
pub struct Local<'a> {
    /// Distinguishes our descriptions of one connection from others'; below 2^63.
    pub session: u64,
    /// Counts our descriptions of this connection.
    pub version: u64,
    /// For the client's checks.
    pub credentials: &'a Credentials,
    /// Of our certificate, as `a=fingerprint` says it.
    pub fingerprint: &'a str,
    /// Where the worker is reached, the best first.
    pub addresses: &'a [SocketAddr],
    /// The role of each m-line, in their order; what has no media is refused whatever its role is.
    pub roles: &'a [Role],
}

/// Writes the answer to an offer.
pub fn answer(offer: &Offer, local: &Local<'_>) -> String {
    let mut text = String::with_capacity(2_048);
    // Writing to a string cannot fail.
    let _infallible = write_answer(&mut text, offer, local);
    text
}

fn write_answer(text: &mut String, offer: &Offer, local: &Local<'_>) -> fmt::Result {
    write!(
        text,
        "v=0\r\no=- {} {} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n",
        local.session, local.version
    )?;
    write!(text, "a=ice-lite\r\na=group:BUNDLE")?;
    for section in offer
        .sections
        .iter()
        .filter(|section| section.media.is_some())
    {
        write!(text, " {}", section.mid)?;
    }
    write!(text, "\r\na=msid-semantic: WMS *\r\n")?;
    for (section, role) in offer.sections.iter().zip(local.roles) {
        match &section.media {
            Some(media) => write_section(text, section, media, *role, local)?,
            None => {
                let (kind, protocol, formats) = &section.line;
                write!(
                    text,
                    "m={kind} 0 {protocol} {formats}\r\nc=IN IP4 0.0.0.0\r\n"
                )?;
                write!(text, "a=mid:{}\r\na=inactive\r\n", section.mid)?;
            }
        }
    }
    Ok(())
}

fn write_section(
    text: &mut String,
    section: &Section,
    media: &Media,
    role: Role,
    local: &Local<'_>,
) -> fmt::Result {
    let payload_type = media.payload_type;
    write!(
        text,
        "m={} 9 {PROTOCOL} {payload_type}\r\n",
        media.kind.name()
    )?;
    write!(text, "c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n")?;
    for (position, address) in (1u32..).zip(local.addresses) {
        let component = 1; // control packets share it
        let priority = 2_130_706_431u32.saturating_sub(position.wrapping_sub(1).wrapping_mul(256));
        write!(
            text,
            "a=candidate:{position} {component} udp {priority} {} {} typ host\r\n",
            address.ip(),
            address.port()
        )?;
    }
    write!(text, "a=end-of-candidates\r\n")?;
    write!(text, "a=ice-ufrag:{}\r\n", local.credentials.ufrag)?;
    write!(text, "a=ice-pwd:{}\r\n", local.credentials.password)?;
    write!(
        text,
        "a=fingerprint:{}\r\na=setup:passive\r\n",
        local.fingerprint
    )?;
    write!(text, "a=mid:{}\r\n", section.mid)?;
    if let (Some(id), Role::Track) = (media.mid_extension, role) {
        write!(text, "a=extmap:{id} {MID}\r\n")?;
    }
    if let Some(id) = media.audio_level_extension {
        write!(text, "a=extmap:{id} {AUDIO_LEVEL}\r\n")?;
    }
    let direction = match role {
        Role::Inactive => "inactive",
        Role::Track => "recvonly",
        Role::Slot(_) => "sendonly",
    };
    write!(text, "a={direction}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n")?;
    write!(
        text,
        "a=rtpmap:{payload_type} {}\r\n",
        media.kind.encoding()
    )?;
    match (media.kind, role, &media.parameters) {
        // Opus repairs single losses by itself when asked to (RFC 7587, section 6.1).
        (Kind::Audio, Role::Track, _) => {
            write!(text, "a=fmtp:{payload_type} minptime=10;useinbandfec=1\r\n")?
        }
        (_, Role::Slot(_), Some(parameters)) => {
            write!(text, "a=fmtp:{payload_type} {parameters}\r\n")?
        }
        _ => {}
    }
    let Feedback { nack, pli, fir } = media.feedback;
    for (agreed, name) in [(nack, "nack"), (pli, "nack pli"), (fir, "ccm fir")] {
        if agreed {
            write!(text, "a=rtcp-fb:{payload_type} {name}\r\n")?;
        }
    }
    if let Role::Slot(source) = role {
        // Every slot is a stream of its own: what it shows changes, and with it what it belongs to.
        write!(
            text,
            "a=msid:slot-{0} slot-{0}\r\na=ssrc:{source} cname:{CNAME}\r\n",
            section.mid
        )?;
    }
    Ok(())
}

/// The name of our end in control packets (RFC 3550, section 6.5.1); the same for all, as it names nobody.
pub const CNAME: &str = "plenum";
/// Largest offer, in bytes: a hundred m-lines with every codec of a browser fit.
pub const OFFER_LIMIT: usize = 256 * 1_024;
/// Most m-lines of one connection.
pub const SECTIONS: usize = 128;
/// Longest mid; browsers number them.
const MID_LENGTH: usize = 32;
/// Fingerprints of one certificate: one per hash.
const FINGERPRINTS: usize = 8;
/// Streams one m-line may name.
const SOURCES: usize = 8;
const PROTOCOL: &str = "UDP/TLS/RTP/SAVPF";
const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::sfu::peer::PeerKey;

    /// What Chromium offers that sends a microphone (mid 0) and a camera (1) and has a slot for each (2 and 4).
    const CHROMIUM: &str = include_str!("sdp/chromium-offer.sdp");

    const SESSION: &str =
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n";
    const CONNECTION: &str = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\na=rtcp-mux\r\n";
    const OPUS: &str = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";

    fn fingerprint() -> String {
        format!("a=fingerprint:sha-256 {}\r\n", ["AB"; 32].join(":"))
    }

    /// An offer of one audio m-line.
    fn small() -> String {
        format!(
            "{SESSION}{OPUS}a=mid:0\r\n{CONNECTION}{}a=sendonly\r\n",
            fingerprint()
        )
    }

    fn answered(offer: &Offer, roles: &[Role]) -> String {
        let credentials = Credentials::new(0, PeerKey::default(), &mut StdRng::seed_from_u64(1));
        let addresses = [
            "192.0.2.1:40000".parse().unwrap(),
            "[2001:db8::1]:40000".parse().unwrap(),
        ];
        let local = Local {
            session: 7,
            version: 1,
            credentials: &credentials,
            fingerprint: "sha-256 AB",
            addresses: &addresses,
            roles,
        };
        answer(offer, &local)
    }

    #[test]
    fn a_browsers_offer_is_understood() {
        let offer = Offer::parse(CHROMIUM).unwrap();
        let directions: Vec<_> = offer
            .sections
            .iter()
            .map(|section| (section.mid.as_str(), section.sends, section.receives))
            .collect();
        assert_eq!(
            directions,
            [
                ("0", true, false),
                ("1", true, false),
                ("2", false, true),
                ("4", false, true)
            ]
        );
        let microphone = offer.sections[0].media.as_ref().unwrap();
        assert_eq!(
            (microphone.kind, microphone.payload_type),
            (Kind::Audio, 111)
        );
        assert_eq!(microphone.sources.len(), 1);
        assert!(microphone.audio_level_extension.is_some());
        let camera = offer.sections[1].media.as_ref().unwrap();
        assert_eq!((camera.kind, camera.payload_type), (Kind::Video, 96));
        assert_eq!(
            camera.feedback,
            Feedback {
                nack: true,
                pli: true,
                fir: true
            }
        );
        assert!(camera.mid_extension.is_some() && camera.audio_level_extension.is_none());
        assert_eq!(offer.fingerprints.len(), 1);
    }

    #[test]
    fn the_answer_mirrors_the_offer() {
        let offer = Offer::parse(CHROMIUM).unwrap();
        let text = answered(
            &offer,
            &[Role::Track, Role::Inactive, Role::Slot(77), Role::Slot(78)],
        );
        let read = SessionDescription::unmarshal(&mut Cursor::new(&text)).unwrap();
        let has = |section: usize, line: &str| {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            let attributes = &read.media_descriptions[section].attributes;
            attributes.iter().any(|attribute| {
                attribute.key == key && attribute.value.as_deref().unwrap_or("") == value
            })
        };
        assert_eq!(value(&read.attributes, "group"), Some("BUNDLE 0 1 2 4"));
        assert_eq!(value(&read.attributes, "ice-lite"), None);
        assert!(
            read.attributes
                .iter()
                .any(|attribute| attribute.key == "ice-lite")
        );
        for (section, mid, direction) in [
            (0, "0", "recvonly"),
            (1, "1", "inactive"),
            (2, "2", "sendonly"),
            (3, "4", "sendonly"),
        ] {
            assert!(
                has(section, &format!("mid:{mid}")) && has(section, direction),
                "section {section}"
            );
            assert!(has(section, "setup:passive") && has(section, "rtcp-mux"));
            assert!(has(
                section,
                "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host"
            ));
            assert!(has(
                section,
                "candidate:2 1 udp 2130706175 2001:db8::1 40000 typ host"
            ));
        }
        assert!(has(2, "ssrc:77 cname:plenum") && has(3, "ssrc:78 cname:plenum"));
        assert!(
            has(3, "rtcp-fb:96 nack pli") && !has(2, "rtcp-fb:111 nack"),
            "only feedback that was offered"
        );
        assert!(
            !text.contains("rtx") && !text.contains("transport-cc"),
            "nothing we do not do"
        );
    }

    #[test]
    fn what_cannot_be_carried_is_refused_and_the_rest_answered() {
        let rest = format!("{CONNECTION}{}", fingerprint());
        let offer = format!(
            "{SESSION}{OPUS}a=mid:0\r\n{rest}\
             m=video 9 UDP/TLS/RTP/SAVPF 98\r\na=rtpmap:98 VP9/90000\r\na=mid:1\r\n{rest}\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n{rest}"
        );
        let offer = Offer::parse(&offer).unwrap();
        let text = answered(&offer, &[Role::Track, Role::Inactive, Role::Inactive]);
        assert!(text.contains("a=group:BUNDLE 0\r\n"), "{text}");
        assert!(
            text.contains("m=video 0 UDP/TLS/RTP/SAVPF 98\r\n"),
            "{text}"
        );
        assert!(
            text.contains("m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"),
            "{text}"
        );
    }

    #[test]
    fn an_m_line_that_waits_for_the_bundle_is_in_use() {
        let offer = small()
            .replace("m=audio 9", "m=audio 0")
            .replace("a=mid:0\r\n", "a=mid:0\r\na=bundle-only\r\n");
        assert!(Offer::parse(&offer).unwrap().sections[0].media.is_some());
    }

    #[test]
    fn a_bad_offer_is_refused_with_its_reason() {
        let section = |problem| NegotiationError::Section {
            mid: "0".to_owned(),
            problem,
        };
        let many = format!(
            "{}{}",
            small(),
            "m=audio 0 UDP/TLS/RTP/SAVPF 0\r\na=mid:9\r\n".repeat(SECTIONS)
        );
        for (offer, expected) in [
            ("v=0\r\n".repeat(OFFER_LIMIT), NegotiationError::TooLarge),
            (many, NegotiationError::TooManySections),
            (
                small().replace("a=group:BUNDLE 0 1 2\r\n", ""),
                NegotiationError::Missing("a=group:BUNDLE"),
            ),
            (
                small().replace("ice-ufrag", "x-ufrag"),
                NegotiationError::Missing("a=ice-ufrag"),
            ),
            (
                small().replace("ice-pwd", "x-pwd"),
                NegotiationError::Missing("a=ice-pwd"),
            ),
            (
                small().replace("ufrag:abcd", "ufrag:abc"),
                NegotiationError::Missing("a=ice-ufrag of 4 to 256 characters"),
            ),
            (
                small().replace("opus", "PCMU"),
                NegotiationError::Missing("m-line with VP8 or Opus"),
            ),
            (
                small()
                    .replace(":111 opus", ":72 opus")
                    .replace("SAVPF 111", "SAVPF 72"),
                NegotiationError::Missing("m-line with VP8 or Opus"),
            ),
            (
                small().replace("m=audio 9", "m=audio 0"),
                NegotiationError::Missing("m-line with VP8 or Opus"),
            ),
            (
                small().replace("actpass", "passive"),
                NegotiationError::Setup,
            ),
            (
                small().replace("sha-256", "sha-1"),
                NegotiationError::Fingerprint,
            ),
            (
                small().replace("AB:AB", "AB"),
                NegotiationError::Fingerprint,
            ),
            (
                small().replace("a=mid:0\r\n", ""),
                section("it has no a=mid"),
            ),
            (
                small().replace("a=mid:0\r\n", "a=mid:a b\r\n"),
                section("its a=mid is not a token of 1 to 32 characters"),
            ),
            (
                small().replace("BUNDLE 0 1 2", "BUNDLE 5"),
                section("it is not in a=group:BUNDLE, and all media share one path"),
            ),
            (
                small().replace("a=rtcp-mux\r\n", ""),
                section("it has no a=rtcp-mux, and control packets share the path"),
            ),
            (
                format!("{}{OPUS}a=mid:0\r\n{CONNECTION}", small()),
                section("its a=mid is used twice"),
            ),
        ] {
            assert_eq!(
                Offer::parse(&offer).err(),
                Some(expected),
                "{}",
                &offer[..offer.len().min(600)]
            );
        }
        for not_sdp in [
            "",
            "hello",
            "v=0",
            "\0",
            "v=0\r\nm=audio 9 RTP/AVP 0\r\n",
            "m=audio",
        ] {
            let error = Offer::parse(not_sdp).err();
            assert!(
                matches!(
                    error,
                    Some(NegotiationError::Syntax(_) | NegotiationError::Missing(_))
                ),
                "{not_sdp:?} {error:?}"
            );
        }
    }

    #[test]
    fn numbers_that_cannot_be_written_are_left_out() {
        let wide = small().replace(
            "a=mid:0",
            "a=extmap:15 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=mid:0",
        );
        let offer = Offer::parse(&wide).unwrap();
        assert_eq!(
            offer.sections[0]
                .media
                .as_ref()
                .unwrap()
                .audio_level_extension,
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(v=0\r\n)?([a-z]=[ -~]{0,30}\r?\n){0,12}\\PC{0,20}") {
            let _read = Offer::parse(&text);
        }

        /// A browser's offer with some of its lines cut, doubled, moved or overwritten.
        #[test]
        fn a_damaged_offer_is_read_and_answered_without_panic(
            edits in proptest::collection::vec((0..400usize, 0..4u8, 0..400usize, "[ -~]{0,12}"), 0..12),
        ) {
            let mut lines: Vec<String> = CHROMIUM.split_inclusive('\n').map(str::to_owned).collect();
            for (at, what, other, text) in edits {
                let (at, other) = (at % lines.len().max(1), other % lines.len().max(1));
                match what {
                    _ if lines.is_empty() => {}
                    0 => drop(lines.remove(at)),
                    1 => lines.insert(at, lines[other].clone()),
                    2 => lines.swap(at, other),
                    _ => {
                        let keep = text.len().min(lines[at].len().saturating_sub(2));
                        if lines[at].is_char_boundary(keep) {
                            lines[at].replace_range(..keep, &text[..keep]);
                        }
                    }
                }
            }
            if let Ok(offer) = Offer::parse(&lines.concat()) {
                let roles = vec![Role::Slot(1); offer.sections.len()];
                let text = answered(&offer, &roles);
                prop_assert!(SessionDescription::unmarshal(&mut Cursor::new(&text)).is_ok(), "{}", text);
                let lines = text.split("\r\nm=").count() - 1;
                prop_assert_eq!(lines, offer.sections.len(), "no line of the offer becomes several of ours");
            }
        }
    }
}
