//! The router with whole clients, over a network and a clock that the test moves.

use std::ops::Range;

use rand::SeedableRng;

use super::*;
use crate::sfu::{
    client::{Client, Line, Received},
    rtp, slab,
};

const MS: Duration = Duration::from_millis(1);
const MEETING: MeetingId = MeetingId::from_bytes([9; 12]);
const ALL: [Source; 4] = [
    Source::Microphone,
    Source::Camera,
    Source::Screen,
    Source::ScreenAudio,
];

const MICROPHONE: usize = 0;
const CAMERA: usize = 1;
const AUDIO_SLOT: usize = 2;
const VIDEO_SLOT: usize = 3;
/// No frames.
const NONE: [u64; 0] = [];
/// A microphone, a camera, and a slot for each kind.
const LINES: [Line; 4] = [
    Line::Send(Kind::Audio),
    Line::Send(Kind::Video),
    Line::Receive(Kind::Audio),
    Line::Receive(Kind::Video),
];

fn participant(n: u8) -> ParticipantId {
    ParticipantId::from_bytes([n; 12])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 1_000))
}

/// The start of a VP8 frame with `n` in it.
fn frame(key: bool, n: u64) -> Vec<u8> {
    let mut payload = vec![0x10, if key { 0 } else { 1 }];
    payload.extend_from_slice(&n.to_be_bytes());
    payload
}

struct Person {
    client: Client,
    address: SocketAddr,
    received: Vec<Received>,
    ended: Option<Ended>,
}

/// Whether the network loses a datagram to an address.
type Loses = Box<dyn FnMut(SocketAddr, &[u8]) -> bool>;

struct Test {
    now: Instant,
    router: Router,
    people: HashMap<u8, Person>,
    events: Vec<Event>,
    /// Drops a datagram to this address.
    lose: Loses,
}

impl Test {
    fn new() -> Self {
        let server = SocketAddr::from(([192, 0, 2, 254], 40_000));
        let identity = Identity::generate().unwrap();
        Self {
            now: Instant::now(),
            router: Router::new(0, identity, vec![server], StdRng::seed_from_u64(1)),
            people: HashMap::new(),
            events: Vec::new(),
            lose: Box::new(|_, _| false),
        }
    }

    /// Somebody with these m-lines who has not made an offer.
    fn person(&mut self, n: u8, lines: &[Line]) {
        let client = Client::new(Identity::generate().unwrap(), lines.to_vec(), n.into());
        let person = Person {
            client,
            address: address(n),
            received: Vec::new(),
            ended: None,
        };
        self.people.insert(n, person);
    }

    fn client(&mut self, n: u8) -> &mut Client {
        &mut self.people.get_mut(&n).unwrap().client
    }

    fn negotiate(
        &mut self,
        n: u8,
        offer: &str,
        allowed: &[Source],
    ) -> Result<String, NegotiationError> {
        let offer = Offer::parse(offer)?;
        let named = |kind, source| {
            let mut sections = offer.sections.iter().filter(|section| section.sends);
            let section = sections.find(|section| {
                section
                    .media
                    .as_ref()
                    .is_some_and(|media| media.kind == kind)
            });
            section.map(|section| (section.mid.clone(), source))
        };
        let tracks = [
            named(Kind::Audio, Source::Microphone),
            named(Kind::Video, Source::Camera),
        ];
        let tracks = tracks.into_iter().flatten().collect();
        let allowed = allowed.iter().copied().collect();
        let negotiation = Negotiation {
            meeting: MEETING,
            peer: participant(n),
            offer,
            tracks,
            allowed,
        };
        self.router.negotiate(negotiation, self.now)
    }

    /// Lets somebody make an offer and connect.
    fn connect(&mut self, n: u8) {
        let offer = self.client(n).offer();
        let answer = self.negotiate(n, &offer, &ALL).unwrap();
        let now = self.now;
        self.client(n).handle_answer(&answer, now).unwrap();
        self.pass(100 * MS);
    }

    fn join(&mut self, n: u8) {
        self.person(n, &LINES);
        self.connect(n);
        assert!(self.client(n).is_connected());
    }

    /// Carries datagrams until none is left.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for person in self.people.values_mut() {
                while let Some(datagram) = person.client.poll_transmit() {
                    quiet = false;
                    let mut buffer = slab::buffer();
                    buffer[..datagram.len()].copy_from_slice(&datagram);
                    self.router.handle_datagram(
                        &mut buffer,
                        datagram.len(),
                        person.address,
                        self.now,
                    );
                }
            }
            self.router.handle_timeout(self.now);
            let mut buffer = slab::buffer();
            while let Some((to, length)) = self.router.poll_transmit(&mut buffer[..]) {
                quiet = false;
                if (self.lose)(to, &buffer[..length]) {
                    continue;
                }
                let Some(person) = self.people.values_mut().find(|person| person.address == to)
                else {
                    continue;
                };
                match person
                    .client
                    .handle_datagram(&mut buffer[..length], self.now)
                {
                    Ok(received) => person.received.push(received),
                    Err(ended) => person.ended = Some(ended),
                }
            }
            if quiet {
                break;
            }
        }
        let events = &mut self.events;
        self.router.poll_events(|event| {
            events.push(event);
            true
        });
    }

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            self.now += 10 * MS;
            for person in self.people.values_mut() {
                person.client.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    /// Sends one video packet.
    fn video(&mut self, n: u8, sequence: u64, key: bool) {
        let timestamp = u32::try_from(sequence & 0xffff).unwrap() * 3_000;
        self.client(n)
            .send_media(CAMERA, sequence, timestamp, &frame(key, sequence));
        self.settle();
    }

    /// Sends one audio packet.
    fn audio(&mut self, n: u8, sequence: u64) {
        self.client(n).send_media(MICROPHONE, sequence, 0, &[n; 80]);
        self.settle();
    }

    /// What came on an m-line since the last call: number and payload.
    fn media(&mut self, n: u8, wanted: usize) -> Vec<(u64, Vec<u8>)> {
        let received = &mut self.people.get_mut(&n).unwrap().received;
        received
            .extract_if(
                ..,
                |received| matches!(received, Received::Media { line, .. } if *line == wanted),
            )
            .map(|received| match received {
                Received::Media {
                    sequence, payload, ..
                } => (sequence, payload),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// Numbers of the packets the publisher sent, as they came on a video m-line since the last call.
    fn frames(&mut self, n: u8, line: usize) -> Vec<u64> {
        let number = |payload: &[u8]| u64::from_be_bytes(payload[2..10].try_into().unwrap());
        self.media(n, line)
            .iter()
            .map(|(_, payload)| number(payload))
            .collect()
    }

    /// Control messages since the last call that `select` takes.
    fn control<T>(&mut self, n: u8, select: impl Fn(Message<'_>) -> Option<T>) -> Vec<T> {
        let received = &mut self.people.get_mut(&n).unwrap().received;
        let packets: Vec<Received> = received
            .extract_if(.., |received| matches!(received, Received::Control(_)))
            .collect();
        let messages = packets.iter().flat_map(|packet| match packet {
            Received::Control(bytes) => rtcp::messages(bytes),
            other => panic!("{other:?}"),
        });
        messages.filter_map(select).collect()
    }

    fn key_frame_requests(&mut self, n: u8) -> usize {
        self.control(n, |message| {
            matches!(message, Message::KeyFrameRequest { .. }).then_some(())
        })
        .len()
    }

    /// What somebody's slots show, by the last event.
    fn slots(&self, n: u8) -> Vec<Option<(ParticipantId, Source)>> {
        let mut events = self.events.iter().rev();
        events
            .find_map(|event| match event {
                Event::Slots { peer, slots, .. } if *peer == participant(n) => {
                    Some(slots.iter().map(|slot| slot.shows).collect())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    fn lost(&self, n: u8) -> Option<LostReason> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Lost { peer, reason, .. } if *peer == participant(n) => Some(*reason),
            _ => None,
        })
    }
}

fn shows(n: u8, source: Source) -> Option<(ParticipantId, Source)> {
    Some((participant(n), source))
}

#[test]
fn what_one_sends_the_other_receives() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    for sequence in 0..20 {
        test.audio(1, sequence);
        test.video(1, sequence, sequence == 0);
    }
    assert_eq!(test.frames(2, VIDEO_SLOT), (0..20).collect::<Vec<_>>());
    assert_eq!(test.media(2, AUDIO_SLOT).len(), 20);
    assert_eq!(
        test.slots(2),
        [shows(1, Source::Microphone), shows(1, Source::Camera)]
    );
    assert_eq!(test.slots(1), [None, None]);
    assert_eq!(
        (
            test.media(1, AUDIO_SLOT).len(),
            test.media(1, VIDEO_SLOT).len()
        ),
        (0, 0),
        "nobody receives their own"
    );
    for source in [Source::Microphone, Source::Camera] {
        let published = Event::Published {
            meeting: MEETING,
            peer: participant(1),
            source,
        };
        assert_eq!(
            test.events
                .iter()
                .filter(|event| **event == published)
                .count(),
            1
        );
    }
}

#[test]
fn meetings_do_not_hear_each_other() {
    let mut test = Test::new();
    test.join(1);
    test.person(2, &LINES);
    let offer = Offer::parse(&test.client(2).offer()).unwrap();
    let elsewhere = Negotiation {
        meeting: MeetingId::from_bytes([8; 12]),
        peer: participant(2),
        offer,
        tracks: Vec::new(),
        allowed: HashSet::new(),
    };
    let answer = test.router.negotiate(elsewhere, test.now).unwrap();
    let now = test.now;
    test.client(2).handle_answer(&answer, now).unwrap();
    test.pass(100 * MS);
    test.audio(1, 0);
    assert_eq!(test.media(2, AUDIO_SLOT), []);
}

#[test]
fn another_certificate_than_the_offer_named_gets_and_gives_nothing() {
    let mut test = Test::new();
    test.join(1);
    test.person(2, &LINES);
    let own = Identity::generate().unwrap();
    let offer = test.client(2).offer();
    let shown = offer
        .lines()
        .find_map(|line| line.strip_prefix("a=fingerprint:"))
        .unwrap();
    let forged = offer.replace(shown, own.fingerprint());
    let answer = test.negotiate(2, &forged, &ALL).unwrap();
    let now = test.now;
    test.client(2).handle_answer(&answer, now).unwrap();
    test.pass(500 * MS);
    assert_eq!(test.lost(2), Some(LostReason::Fingerprint));
    for sequence in 0..10 {
        test.audio(1, sequence);
        test.audio(2, sequence);
    }
    test.pass(2_000 * MS);
    assert_eq!(test.media(2, AUDIO_SLOT), []);
    assert_eq!(test.media(1, AUDIO_SLOT), []);
    assert!(!test.events.contains(&Event::Connected {
        meeting: MEETING,
        peer: participant(2)
    }));
}

#[test]
fn datagrams_from_an_unchecked_address_do_nothing() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.people.get_mut(&1).unwrap().address = address(77);
    test.audio(1, 0);
    assert_eq!(test.media(2, AUDIO_SLOT), []);
    // The next check from the new address moves the connection there.
    test.pass(6_000 * MS);
    test.audio(1, 1);
    assert_eq!(test.media(2, AUDIO_SLOT).len(), 1);
    test.audio(2, 0);
    assert_eq!(test.media(1, AUDIO_SLOT).len(), 1);
}

#[test]
fn an_address_in_use_cannot_be_taken_by_another_participant() {
    let mut test = Test::new();
    test.join(1);
    test.person(2, &LINES);
    let offer = test.client(2).offer();
    let answer = test.negotiate(2, &offer, &ALL).unwrap();
    let line = |key| {
        answer
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
    };
    let username = format!("{}:client00000002", line("a=ice-ufrag:"));
    let check = crate::sfu::stun::request([0; 12], &username, line("a=ice-pwd:"), true);
    for (from, taken) in [(address(1), false), (address(2), true)] {
        let mut buffer = slab::buffer();
        buffer[..check.len()].copy_from_slice(&check);
        test.router
            .handle_datagram(&mut buffer, check.len(), from, test.now);
        let answered = test.router.poll_transmit(&mut buffer[..]).is_some();
        assert_eq!(answered, taken, "{from}");
    }
}

#[test]
fn a_packet_names_its_m_line_when_its_stream_is_not_announced() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    let header = |payload_type, extension| rtp::Outgoing {
        payload_type,
        marker: false,
        sequence: 1,
        timestamp: 0,
        source: 4_711,
        extension,
    };
    for (payload_type, extension, arrives) in [
        (111, None, false),
        (111, Some((4, b'9')), false),
        (111, Some((4, b'0')), true),
        (112, Some((4, b'0')), false),
    ] {
        test.client(1)
            .send_packet(&header(payload_type, extension), 1, &[1; 80]);
        test.settle();
        let arrived = !test.media(2, AUDIO_SLOT).is_empty();
        assert_eq!(arrived, arrives, "{payload_type} {extension:?}");
        test.person(1, &LINES);
        test.connect(1);
    }
}

#[test]
fn the_audio_level_goes_with_the_packet() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    let header = rtp::Outgoing {
        payload_type: 111,
        marker: false,
        sequence: 1,
        timestamp: 0,
        source: 1_000,
        extension: Some((1, 0x85)),
    };
    test.client(1).send_packet(&header, 1, &[1; 80]);
    test.settle();
    let levels: Vec<_> = test.people[&2]
        .received
        .iter()
        .filter_map(|received| match received {
            Received::Media { audio_level, .. } => Some(*audio_level),
            _ => None,
        })
        .collect();
    assert_eq!(levels, [Some(0x85)]);
}

#[test]
fn another_stream_on_the_same_m_line_goes_on_from_its_key_frame() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 9_000, true);
    let (first, _) = test.media(2, VIDEO_SLOT)[0];
    test.client(1).renew_stream(CAMERA);
    test.connect(1);
    test.video(1, 10, false);
    assert_eq!(test.media(2, VIDEO_SLOT), []);
    test.video(1, 11, true);
    assert_eq!(test.media(2, VIDEO_SLOT), [(first + 1, frame(true, 11))]);
    test.video(1, 13, false);
    test.pass(50 * MS);
    let nacked = test.control(1, |message| match message {
        Message::Nack { lost, .. } => Some(lost.sequences().collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(nacked, [[12]], "its gaps are its own");
}

#[test]
fn a_source_withdrawn_in_an_offer_is_gone() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), [0]);
    let offer = test.client(1).offer();
    test.negotiate(1, &offer, &[Source::Microphone]).unwrap();
    test.settle();
    assert_eq!(test.slots(2), [None, None]);
    let unpublished = Event::Unpublished {
        meeting: MEETING,
        peer: participant(1),
        source: Source::Camera,
    };
    assert!(test.events.contains(&unpublished));
    test.video(1, 1, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), NONE);
    test.connect(1);
    test.video(1, 2, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), [2], "it may be offered again");
}

#[test]
fn a_slot_withdrawn_in_an_offer_is_gone() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), [0]);
    let offer = test.client(2).offer();
    let (kept, last) = offer.rsplit_once("a=recvonly").unwrap();
    let answer = test
        .negotiate(2, &format!("{kept}a=inactive{last}"), &ALL)
        .unwrap();
    assert!(
        answer
            .trim_end()
            .rsplit_once("a=mid:3")
            .unwrap()
            .1
            .contains("a=inactive")
    );
    test.settle();
    assert_eq!(test.slots(2), [None], "the audio slot is left");
    test.video(1, 1, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), NONE);
    test.connect(2);
    test.video(1, 2, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), [2], "it may be offered again");
}

#[test]
fn tracks_must_fit_the_offer() {
    let mut test = Test::new();
    test.person(1, &LINES);
    let offer = Offer::parse(&test.client(1).offer()).unwrap();
    for (tracks, mid, part) in [
        (vec![("7", Source::Camera)], "7", "not in the offer"),
        (vec![("0", Source::Camera)], "0", "is audio"),
        (vec![("1", Source::Microphone)], "1", "is audio"),
        (
            vec![("1", Source::Camera), ("3", Source::Camera)],
            "3",
            "another m-line",
        ),
    ] {
        let tracks = tracks
            .into_iter()
            .map(|(mid, source)| (mid.to_owned(), source))
            .collect();
        let negotiation = Negotiation {
            meeting: MEETING,
            peer: participant(1),
            offer: offer.clone(),
            tracks,
            allowed: HashSet::from(ALL),
        };
        let error = test.router.negotiate(negotiation, test.now).unwrap_err();
        let NegotiationError::Section {
            mid: wrong,
            problem,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(wrong, mid);
        assert!(problem.contains(part), "{problem}");
    }
    assert!(test.router.peers.is_empty(), "nothing has happened");
}

#[test]
fn one_connection_cannot_grow_without_end() {
    let mut test = Test::new();
    test.join(1);
    let offer = test.client(1).offer();
    let refused = (0..200).find_map(|n| {
        let fresh = (0..4).fold(offer.clone(), |offer, mid| {
            offer.replace(&format!("a=mid:{mid}\r\n"), &format!("a=mid:{n}-{mid}\r\n"))
        });
        let mids = format!("BUNDLE {n}-0 {n}-1 {n}-2 {n}-3");
        test.negotiate(1, &fresh.replace("BUNDLE 0 1 2 3", &mids), &ALL)
            .err()
    });
    assert_eq!(refused, Some(NegotiationError::TooManySections));
}

#[test]
fn checks_for_another_worker_are_not_answered() {
    let mut test = Test::new();
    test.person(1, &LINES);
    let offer = test.client(1).offer();
    let answer = test.negotiate(1, &offer, &ALL).unwrap();
    let now = test.now;
    test.client(1).handle_answer(&answer, now).unwrap();
    test.router.worker = 1;
    test.pass(200 * MS);
    assert!(!test.client(1).is_connected());
    test.router.worker = 0;
    test.pass(200 * MS);
    assert!(test.client(1).is_connected());
}

#[test]
fn a_handshake_that_is_not_finished_is_given_up() {
    // The server's certificate never arrives; then: nothing of the handshake does.
    for shortest in [300, 0] {
        let mut test = Test::new();
        test.lose = Box::new(move |_, datagram| {
            (20..64).contains(&datagram[0]) && datagram.len() > shortest
        });
        test.person(1, &LINES);
        test.connect(1);
        test.pass(CONNECT);
        assert_eq!(test.lost(1), Some(LostReason::Handshake), "{shortest}");
    }
}

#[test]
fn nothing_is_sent_again_under_other_numbers() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    let (sent, _) = test.media(2, VIDEO_SLOT)[0];
    let offer = test.client(2).offer();
    let other = offer
        .replace("SAVPF 96", "SAVPF 97")
        .replace(":96 ", ":97 ");
    test.negotiate(2, &other, &ALL).unwrap();
    test.client(2).send_nack(VIDEO_SLOT, &[rtp::truncate(sent)]);
    let datagram = test.client(2).poll_transmit().unwrap();
    let mut buffer = slab::buffer();
    buffer[..datagram.len()].copy_from_slice(&datagram);
    test.router
        .handle_datagram(&mut buffer, datagram.len(), address(2), test.now);
    assert_eq!(test.router.poll_transmit(&mut buffer[..]), None);
}

#[test]
fn an_ice_restart_keeps_the_connection() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.client(1).restart_ice();
    test.people.get_mut(&1).unwrap().address = address(50);
    test.connect(1);
    test.pass(2 * CONSENT);
    assert_eq!(test.lost(1), None);
    test.audio(1, 0);
    test.audio(2, 0);
    assert_eq!(test.media(2, AUDIO_SLOT).len(), 1);
    assert_eq!(test.media(1, AUDIO_SLOT).len(), 1);
    let connected = Event::Connected {
        meeting: MEETING,
        peer: participant(1),
    };
    assert_eq!(
        test.events
            .iter()
            .filter(|event| **event == connected)
            .count(),
        1
    );
}

#[test]
fn a_late_joiner_sees_a_picture_from_the_next_key_frame_which_is_asked_for_at_once() {
    let mut test = Test::new();
    test.join(1);
    for sequence in 0..10 {
        test.video(1, sequence, sequence == 0);
    }
    test.pass(1_000 * MS);
    test.key_frame_requests(1);
    test.person(2, &LINES);
    let offer = test.client(2).offer();
    test.negotiate(2, &offer, &ALL).unwrap();
    test.pass(100 * MS);
    assert_eq!(test.key_frame_requests(1), 0, "nobody could receive it yet");
    test.connect(2);
    assert_eq!(test.key_frame_requests(1), 1);
    test.video(1, 10, false);
    assert_eq!(
        test.frames(2, VIDEO_SLOT),
        NONE,
        "nothing that cannot be decoded"
    );
    test.video(1, 11, true);
    test.video(1, 12, false);
    assert_eq!(test.frames(2, VIDEO_SLOT), [11, 12]);
}

#[test]
fn key_frame_requests_of_many_are_one_request() {
    let mut test = Test::new();
    test.join(1);
    for n in 2..12 {
        test.join(n);
    }
    test.video(1, 0, true);
    test.pass(1_000 * MS);
    test.key_frame_requests(1);
    for n in 2..12 {
        test.client(n).send_key_frame_request(VIDEO_SLOT);
    }
    test.settle();
    assert_eq!(test.key_frame_requests(1), 1);
    for n in 2..12 {
        test.client(n).send_key_frame_request(VIDEO_SLOT);
    }
    test.pass(400 * MS);
    assert_eq!(test.key_frame_requests(1), 0);
    test.pass(200 * MS);
    assert_eq!(
        test.key_frame_requests(1),
        1,
        "the later ones are answered once the interval is over"
    );
}

#[test]
fn a_packet_lost_on_the_way_to_a_subscriber_is_sent_again_when_asked_for() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    test.frames(2, VIDEO_SLOT);
    test.lose = Box::new(|to, datagram| to == address(2) && (128..192).contains(&datagram[0]));
    test.video(1, 1, false);
    test.lose = Box::new(|_, _| false);
    test.video(1, 2, false);
    let received = test.media(2, VIDEO_SLOT);
    let after = received.last().unwrap().0;
    let lost = rtp::truncate(after - 1);
    test.client(2)
        .send_nack(VIDEO_SLOT, &[lost, lost.wrapping_add(900)]);
    test.settle();
    let again = test.media(2, VIDEO_SLOT);
    assert_eq!(again, [(after - 1, frame(false, 1))]);
}

#[test]
fn retransmission_is_bounded() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    for sequence in 0..200 {
        test.video(1, sequence, sequence == 0);
    }
    let sent = test.media(2, VIDEO_SLOT);
    let all: Vec<u16> = sent
        .iter()
        .map(|(sequence, _)| rtp::truncate(*sequence))
        .collect();
    let mut counted = 0;
    test.lose = Box::new(|_, _| false);
    for _ in 0..20 {
        test.client(2).send_nack(VIDEO_SLOT, &all);
    }
    // A packet is opened once by the client, so what is counted is what the router sends.
    let datagrams: Vec<Vec<u8>> = std::iter::from_fn(|| test.client(2).poll_transmit()).collect();
    for datagram in datagrams {
        let mut buffer = slab::buffer();
        buffer[..datagram.len()].copy_from_slice(&datagram);
        test.router
            .handle_datagram(&mut buffer, datagram.len(), address(2), test.now);
        while test.router.poll_transmit(&mut buffer[..]).is_some() {
            counted += 1;
        }
    }
    assert!((1..=RESENDS).contains(&counted), "{counted}");
}

#[test]
fn a_packet_lost_on_the_way_from_the_publisher_is_asked_for() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 100, true);
    test.video(1, 103, false);
    test.pass(50 * MS);
    let nacked = test.control(1, |message| match message {
        Message::Nack { lost, .. } => Some(lost.sequences().collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(nacked, [[101, 102]]);
    test.video(1, 101, false);
    test.video(1, 102, false);
    assert_eq!(test.frames(2, VIDEO_SLOT), [100, 103, 101, 102]);
    test.pass(500 * MS);
    let nacked = test.control(1, |message| {
        matches!(message, Message::Nack { .. }).then_some(())
    });
    assert_eq!(nacked, []);
}

#[test]
fn a_track_that_goes_frees_its_slot_for_the_one_that_waits() {
    let mut test = Test::new();
    for n in 1..=4 {
        test.join(n);
    }
    for n in [1, 2, 3] {
        test.video(n, 0, true);
    }
    assert_eq!(test.slots(4)[1], shows(1, Source::Camera));
    let before = test.media(4, VIDEO_SLOT).last().unwrap().0;
    test.pass(1_000 * MS);
    test.key_frame_requests(2);
    test.router.remove(MEETING, participant(1), test.now);
    test.pass(SWEEP);
    assert_eq!(test.router.meetings[&MEETING].live.len(), 2);
    assert_eq!(test.key_frame_requests(2), 1);
    assert_eq!(
        test.slots(4)[1],
        shows(2, Source::Camera),
        "the one that waits longest"
    );
    assert_eq!(test.slots(3)[1], shows(2, Source::Camera));
    test.video(2, 1, false);
    assert_eq!(test.frames(4, VIDEO_SLOT), NONE, "until a key frame");
    test.video(2, 2, true);
    let after = test.media(4, VIDEO_SLOT);
    assert_eq!(
        after,
        [(before + 1, frame(true, 2))],
        "numbers go on without a gap"
    );
    let told = |event: &&Event| matches!(event, Event::Unpublished { .. } | Event::Lost { .. });
    assert_eq!(
        test.events.iter().find(told),
        None,
        "who removes a participant knows"
    );
    assert!(
        test.people[&1].ended == Some(Ended::Closed),
        "the client is told"
    );
}

#[test]
fn a_source_that_stops_is_told_and_comes_back() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    test.audio(1, 0);
    let unpublished = |source| Event::Unpublished {
        meeting: MEETING,
        peer: participant(1),
        source,
    };
    test.client(1).send_goodbye(CAMERA);
    test.settle();
    assert_eq!(test.slots(2), [shows(1, Source::Microphone), None]);
    assert!(test.events.contains(&unpublished(Source::Camera)));
    assert!(!test.events.contains(&unpublished(Source::Microphone)));
    test.pass(5_100 * MS);
    assert!(
        test.events.contains(&unpublished(Source::Microphone)),
        "nothing came for 5 s"
    );
    test.video(1, 1, true);
    assert_eq!(test.slots(2), [None, shows(1, Source::Camera)]);
    assert_eq!(test.frames(2, VIDEO_SLOT), [0, 1]);
}

#[test]
fn what_is_not_allowed_is_not_taken() {
    let mut test = Test::new();
    test.join(1);
    test.person(2, &LINES);
    let offer = test.client(2).offer();
    let answer = test.negotiate(2, &offer, &[Source::Microphone]).unwrap();
    let directions: Vec<&str> = answer
        .lines()
        .filter(|line| ["a=inactive", "a=recvonly", "a=sendonly"].contains(line))
        .collect();
    assert_eq!(
        directions,
        ["a=recvonly", "a=inactive", "a=sendonly", "a=sendonly"]
    );
    let now = test.now;
    test.client(2).handle_answer(&answer, now).unwrap();
    test.pass(100 * MS);
    test.video(2, 0, true);
    test.audio(2, 0);
    assert_eq!(test.slots(1), [shows(2, Source::Microphone), None]);
    assert_eq!(test.media(1, VIDEO_SLOT), []);
}

#[test]
fn a_new_offer_adds_slots_and_keeps_the_others() {
    let mut test = Test::new();
    for n in [1, 2, 3] {
        test.join(n);
    }
    for n in [1, 2] {
        test.video(n, 0, true);
    }
    assert_eq!(test.slots(3), [None, shows(1, Source::Camera)]);
    test.client(3).add_lines(&[Line::Receive(Kind::Video)]);
    test.connect(3);
    assert_eq!(
        test.slots(3),
        [None, shows(1, Source::Camera), shows(2, Source::Camera)]
    );
    test.video(1, 1, false);
    test.video(2, 1, true);
    assert_eq!(
        test.frames(3, VIDEO_SLOT),
        [0, 1],
        "the first slot was not disturbed"
    );
    assert_eq!(test.frames(3, 4), [1]);
    let connected = Event::Connected {
        meeting: MEETING,
        peer: participant(3),
    };
    assert_eq!(
        test.events
            .iter()
            .filter(|event| **event == connected)
            .count(),
        1,
        "it is the same connection"
    );
}

#[test]
fn an_offer_with_another_certificate_is_a_new_connection() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    test.people.get_mut(&1).unwrap().address = address(101);
    let mut old = test.people.remove(&1).unwrap();
    test.join(1);
    assert_eq!(test.slots(2), [None, None]);
    let unpublished = Event::Unpublished {
        meeting: MEETING,
        peer: participant(1),
        source: Source::Camera,
    };
    assert_eq!(
        test.events
            .iter()
            .filter(|event| **event == unpublished)
            .count(),
        1
    );
    test.video(1, 0, true);
    assert_eq!(test.frames(2, VIDEO_SLOT), [0, 0]);
    old.client.send_media(CAMERA, 1, 0, &frame(true, 1));
    old.address = address(100);
    test.people.insert(100, old);
    test.settle();
    assert_eq!(test.frames(2, VIDEO_SLOT), NONE, "the old one is gone");
}

#[test]
fn a_client_that_is_not_heard_of_is_lost_and_may_come_back() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.audio(1, 0);
    let away = test.people.remove(&1).unwrap();
    test.pass(CONSENT - 200 * MS);
    assert_eq!(test.lost(1), None);
    test.pass(6_000 * MS);
    assert_eq!(test.lost(1), Some(LostReason::Consent));
    assert_eq!(test.slots(2), [None, None]);
    test.people.insert(1, away);
    test.events.clear();
    test.pass(6_000 * MS);
    assert_eq!(
        test.events,
        [Event::Connected {
            meeting: MEETING,
            peer: participant(1)
        }]
    );
    test.audio(1, 1);
    assert_eq!(test.media(2, AUDIO_SLOT).len(), 2);
}

#[test]
fn a_client_that_never_comes_is_lost() {
    let mut test = Test::new();
    test.person(1, &LINES);
    let offer = test.client(1).offer();
    test.negotiate(1, &offer, &ALL).unwrap();
    test.people.clear();
    test.pass(CONNECT - 100 * MS);
    assert_eq!(test.lost(1), None);
    test.pass(200 * MS);
    assert_eq!(test.lost(1), Some(LostReason::Consent));
}

#[test]
fn a_closed_connection_is_lost_at_once() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 0, true);
    let now = test.now;
    test.client(1).close(now);
    test.settle();
    assert_eq!(test.lost(1), Some(LostReason::Closed));
    assert_eq!(test.slots(2), [None, None]);
}

#[test]
fn reports_go_both_ways() {
    let mut test = Test::new();
    test.join(1);
    test.join(2);
    test.video(1, 10, true);
    test.video(1, 12, false);
    test.client(1).send_sender_report(CAMERA, 77 << 32, 36_000);
    test.settle();
    test.control(1, |_| None::<()>);
    test.control(2, |_| None::<()>);
    test.pass(1_000 * MS);
    let reports = test.control(1, |message| match message {
        Message::Report(report) => Some((report.highest, report.lost)),
        _ => None,
    });
    assert_eq!(reports, [(12, 1)]);
    let clocks = test.control(2, |message| match message {
        Message::SenderReport { ntp, timestamp, .. } => Some((ntp, timestamp)),
        _ => None,
    });
    let &[(ntp, timestamp)] = &clocks[..] else {
        panic!("{clocks:?}")
    };
    let passed = f64::from(timestamp.wrapping_sub(36_000)) / 90_000.0;
    let clock = (ntp - (77 << 32)) as f64 / 2f64.powi(32);
    assert!(
        (clock - passed).abs() < 0.001,
        "the publisher's clock and media time go together: {clock} {passed}"
    );
}

#[test]
fn the_outside_is_told_how_things_are_when_it_listens() {
    let mut test = Test::new();
    test.join(1);
    test.router.poll_events(|_| false);
    test.events.clear();
    // Nobody listens while a source comes and goes and comes again.
    let mut told = Vec::new();
    let silent = |router: &mut Router| router.poll_events(|_| false);
    for sequence in 0..3 {
        test.client(1).send_media(MICROPHONE, sequence, 0, &[0; 80]);
        test.client(1).send_goodbye(MICROPHONE);
        let datagrams: Vec<Vec<u8>> =
            std::iter::from_fn(|| test.client(1).poll_transmit()).collect();
        for datagram in datagrams {
            let mut buffer = slab::buffer();
            buffer[..datagram.len()].copy_from_slice(&datagram);
            test.router
                .handle_datagram(&mut buffer, datagram.len(), address(1), test.now);
            silent(&mut test.router);
        }
    }
    test.router.poll_events(|event| {
        told.push(event);
        true
    });
    assert_eq!(told, [], "in the end nothing has changed");
}

#[test]
fn a_storm_of_handshakes_waits_its_turn() {
    let mut test = Test::new();
    let newcomers: Range<u8> = 1..40;
    for n in newcomers.clone() {
        test.person(n, &LINES);
        let offer = test.client(n).offer();
        let answer = test.negotiate(n, &offer, &ALL).unwrap();
        let now = test.now;
        test.client(n).handle_answer(&answer, now).unwrap();
        test.client(n).handle_timeout(now);
    }
    // Checks are answered, and every client begins its handshake.
    let mut buffer = slab::buffer();
    for person in test.people.values_mut() {
        while let Some(datagram) = person.client.poll_transmit() {
            buffer[..datagram.len()].copy_from_slice(&datagram);
            test.router
                .handle_datagram(&mut buffer, datagram.len(), person.address, test.now);
        }
    }
    while let Some((to, length)) = test.router.poll_transmit(&mut buffer[..]) {
        let person = test
            .people
            .values_mut()
            .find(|person| person.address == to)
            .unwrap();
        person
            .client
            .handle_datagram(&mut buffer[..length], test.now)
            .unwrap();
        while let Some(datagram) = person.client.poll_transmit() {
            let mut buffer = slab::buffer();
            buffer[..datagram.len()].copy_from_slice(&datagram);
            test.router
                .handle_datagram(&mut buffer, datagram.len(), person.address, test.now);
        }
    }
    assert_eq!(test.router.handshakes.len(), newcomers.len());
    test.router.handle_timeout(test.now);
    assert_eq!(
        test.router.handshakes.len(),
        newcomers.len() - HANDSHAKES_PER_TURN
    );
    assert_eq!(
        test.router.poll_timeout(test.now),
        Some(test.now),
        "the rest follows at once"
    );
    test.pass(500 * MS);
    assert!(newcomers.clone().all(|n| test.client(n).is_connected()));
}

#[test]
fn a_flood_of_checks_is_bounded() {
    let mut test = Test::new();
    test.person(1, &LINES);
    let offer = test.client(1).offer();
    let answer = test.negotiate(1, &offer, &ALL).unwrap();
    let ufrag = answer
        .lines()
        .find_map(|line| line.strip_prefix("a=ice-ufrag:"))
        .unwrap();
    let guess =
        crate::sfu::stun::request([0; 12], &format!("{ufrag}:client00000001"), "guessed", true);
    let mut buffer = slab::buffer();
    for n in 0..10_000u16 {
        buffer[..guess.len()].copy_from_slice(&guess);
        test.router.handle_datagram(
            &mut buffer,
            guess.len(),
            SocketAddr::from(([192, 0, 2, 9], n)),
            test.now,
        );
    }
    assert_eq!(test.router.checks, 0);
    assert_eq!(test.router.poll_transmit(&mut buffer[..]), None);
    assert!(test.router.by_address.is_empty());
    test.pass(SWEEP);
    assert_eq!(test.router.checks, CHECKS);
}

#[test]
fn nothing_is_left_of_a_closed_meeting() {
    let mut test = Test::new();
    for n in 1..=3 {
        test.join(n);
        test.video(n, 0, true);
    }
    test.router.close(MEETING, test.now);
    test.pass(SWEEP);
    assert!(test.router.peers.is_empty());
    assert!(test.router.meetings.is_empty());
    assert!(test.router.by_address.is_empty());
    assert_eq!(test.router.poll_timeout(test.now), None);
    assert!(
        test.people
            .values()
            .all(|person| person.ended == Some(Ended::Closed))
    );
}

proptest::proptest! {
    #[test]
    fn any_datagram_from_anybody_is_taken_without_panic(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), first: u8,
    ) {
        thread_local! {
            static TEST: std::cell::RefCell<Test> = std::cell::RefCell::new({
                let mut test = Test::new();
                test.join(1);
                test
            });
        }
        TEST.with_borrow_mut(|test| {
            for from in [address(1), address(2)] {
                let mut buffer = slab::buffer();
                buffer[..bytes.len()].copy_from_slice(&bytes);
                buffer[0] = first;
                let length = bytes.len();
                test.router.handle_datagram(&mut buffer, length, from, test.now);
            }
            test.settle();
        });
    }
}
