//! The media plane on its own thread and socket, with clients of another library.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use plenum::{
    id::{MeetingId, ParticipantId},
    sfu::{Command, Config, Event, LostReason, Sfu, SlotView, Source},
};
use rtc::{
    interceptor::Registry,
    rtp,
    rtp_transceiver::rtp_sender::{
        RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
        RtpCodecKind,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use webrtc::{
    media_stream::{
        MediaStreamTrack,
        track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
        track_remote::{TrackRemote, TrackRemoteEvent},
    },
    peer_connection::{
        MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
        RTCConfigurationBuilder, RTCIceGatheringState, RTCPeerConnectionState, RTCSdpType,
        RTCSessionDescription, register_default_interceptors,
    },
    rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit},
};

const MEETING: MeetingId = MeetingId::from_bytes([1; 12]);
/// Everything here takes milliseconds; this only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fn participant(n: u8) -> ParticipantId {
    ParticipantId::from_bytes([n; 12])
}

fn start() -> (Sfu, mpsc::Receiver<Event>) {
    let config = Config {
        media_port_base: 0,
        media_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        media_bind: None,
    };
    Sfu::start(&config).unwrap()
}

/// Reads events until one of this kind comes.
async fn until<T>(
    events: &mut mpsc::Receiver<Event>,
    mut wanted: impl FnMut(&Event) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let event = events.recv().await.unwrap();
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, search).await.unwrap()
}

async fn connected(events: &mut mpsc::Receiver<Event>, n: u8) {
    let wanted = Event::Connected {
        meeting: MEETING,
        peer: participant(n),
    };
    until(events, |event| (*event == wanted).then_some(())).await;
}

/// A client that sends a microphone and a camera and has a slot for each.
pub struct Client {
    connection: Arc<dyn PeerConnection>,
    audio: Arc<TrackLocalStaticRTP>,
    video: Arc<TrackLocalStaticRTP>,
    streams: (u32, u32),
    gathered: mpsc::Receiver<()>,
    received: mpsc::Receiver<(RtpCodecKind, Bytes)>,
    states: mpsc::Receiver<RTCPeerConnectionState>,
}

struct Handler {
    gathered: mpsc::Sender<()>,
    received: mpsc::Sender<(RtpCodecKind, Bytes)>,
    states: mpsc::Sender<RTCPeerConnectionState>,
    tasks: tokio_util::task::TaskTracker,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.try_send(()).ok();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.states.try_send(state).ok();
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let received = self.received.clone();
        self.tasks.spawn(async move {
            let kind = track.kind().await;
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event {
                    received.try_send((kind, packet.payload)).ok();
                }
            }
        });
    }
}

fn codec(kind: RtpCodecKind) -> RTCRtpCodec {
    let (name, clock_rate, channels) = match kind {
        RtpCodecKind::Audio => ("audio/opus", 48_000, 2),
        _ => ("video/VP8", 90_000, 0),
    };
    RTCRtpCodec {
        mime_type: name.to_owned(),
        clock_rate,
        channels,
        sdp_fmtp_line: String::new(),
        rtcp_feedback: Vec::new(),
    }
}

fn local_track(kind: RtpCodecKind, stream: u32) -> Arc<TrackLocalStaticRTP> {
    let encoding = RTCRtpEncodingParameters {
        rtp_coding_parameters: RTCRtpCodingParameters {
            ssrc: Some(stream),
            ..Default::default()
        },
        codec: codec(kind),
        ..Default::default()
    };
    let name = format!("{kind}-{stream}");
    Arc::new(TrackLocalStaticRTP::new(MediaStreamTrack::new(
        name.clone(),
        name.clone(),
        name,
        kind,
        vec![encoding],
    )))
}

impl Client {
    pub async fn new(n: u8) -> Self {
        let mut engine = MediaEngine::default();
        for (kind, payload_type) in [(RtpCodecKind::Audio, 111), (RtpCodecKind::Video, 96)] {
            let parameters = RTCRtpCodecParameters {
                rtp_codec: codec(kind),
                payload_type,
            };
            engine.register_codec(parameters, kind).unwrap();
        }
        let interceptors = register_default_interceptors(Registry::new(), &mut engine).unwrap();
        let (gathered_in, gathered) = mpsc::channel(1);
        let (received_in, received) = mpsc::channel(10_000);
        let (states_in, states) = mpsc::channel(100);
        let tasks = tokio_util::task::TaskTracker::new();
        let handler = Handler {
            gathered: gathered_in,
            received: received_in,
            states: states_in,
            tasks,
        };
        let connection = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(engine)
            .with_interceptor_registry(interceptors)
            .with_handler(Arc::new(handler))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .build()
            .await
            .unwrap();
        let streams = (u32::from(n) * 10, u32::from(n) * 10 + 1);
        let (audio, video) = (
            local_track(RtpCodecKind::Audio, streams.0),
            local_track(RtpCodecKind::Video, streams.1),
        );
        for track in [&audio, &video] {
            let init = RTCRtpTransceiverInit {
                direction: RTCRtpTransceiverDirection::Sendonly,
                ..Default::default()
            };
            let track = Arc::clone(track) as Arc<dyn TrackLocal>;
            connection
                .add_transceiver_from_track(track, Some(init))
                .await
                .unwrap();
        }
        for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
            let init = RTCRtpTransceiverInit {
                direction: RTCRtpTransceiverDirection::Recvonly,
                ..Default::default()
            };
            connection
                .add_transceiver_from_kind(kind, Some(init))
                .await
                .unwrap();
        }
        Self {
            connection: Arc::new(connection),
            audio,
            video,
            streams,
            gathered,
            received,
            states,
        }
    }

    /// Offers, after `edit` has changed the offer on its way, and takes the answer.
    async fn join(&mut self, sfu: &Sfu, n: u8, edit: impl FnOnce(String) -> String) {
        let offer = self.offer().await;
        let (reply, answer) = oneshot::channel();
        let command = Command::Negotiate {
            meeting: MEETING,
            peer: participant(n),
            offer: edit(offer),
            tracks: vec![
                ("0".to_owned(), Source::Microphone),
                ("1".to_owned(), Source::Camera),
            ],
            allowed: HashSet::from([Source::Microphone, Source::Camera]),
            reply,
        };
        sfu.send(command).unwrap();
        let sdp = timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
        self.accept(sdp).await;
    }

    /// What it offers to send and to receive.
    pub async fn offer(&mut self) -> String {
        let offer = self.connection.create_offer(None).await.unwrap();
        self.connection.set_local_description(offer).await.unwrap();
        timeout(PATIENCE, self.gathered.recv()).await.unwrap();
        self.connection.local_description().await.unwrap().sdp
    }

    /// Takes the answer to its offer.
    pub async fn accept(&self, sdp: String) {
        let answer = RTCSessionDescription::answer(sdp).unwrap();
        assert_eq!(answer.sdp_type, RTCSdpType::Answer);
        self.connection
            .set_remote_description(answer)
            .await
            .unwrap();
    }

    /// Sends one packet of each kind; every tenth video packet begins a key frame.
    pub async fn send(&self, sequence: u16) {
        let key = u8::from(!sequence.is_multiple_of(10));
        for (track, payload_type, stream, payload) in [
            (&self.audio, 111, self.streams.0, vec![0xfc; 80]),
            (
                &self.video,
                96,
                self.streams.1,
                [&[0x10, key], &[7; 900][..]].concat(),
            ),
        ] {
            let header = rtp::Header {
                version: 2,
                payload_type,
                sequence_number: sequence,
                timestamp: u32::from(sequence) * 1_800,
                ssrc: stream,
                ..Default::default()
            };
            track
                .write_rtp(rtp::Packet {
                    header,
                    payload: payload.into(),
                })
                .await
                .unwrap();
        }
    }

    /// What has come of each kind: packets of audio, packets of video.
    fn received(&mut self) -> (usize, usize) {
        let mut counts = (0, 0);
        while let Ok((kind, payload)) = self.received.try_recv() {
            match kind {
                RtpCodecKind::Audio => {
                    assert_eq!(payload, [0xfc; 80][..]);
                    counts.0 += 1;
                }
                _ => {
                    assert_eq!(payload.len(), 902);
                    counts.1 += 1;
                }
            }
        }
        counts
    }
}

/// Lets `sender` send every 10 ms until `receiver` has this many packets of each kind.
async fn flow(sender: &Client, receiver: &mut Client, wanted: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut got = (0, 0);
    let send = async {
        for sequence in 0.. {
            ticks.tick().await;
            sender.send(sequence).await;
            let (audio, video) = receiver.received();
            got = (got.0 + audio, got.1 + video);
            if got.0 >= wanted && got.1 >= wanted {
                return;
            }
        }
    };
    if timeout(PATIENCE, send).await.is_err() {
        panic!("only {got:?} packets of audio and video came");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_another_library_see_and_hear_each_other() {
    let (sfu, mut events) = start();
    let (mut ann, mut bob) = (Client::new(1).await, Client::new(2).await);
    ann.join(&sfu, 1, |offer| offer).await;
    connected(&mut events, 1).await;
    bob.join(&sfu, 2, |offer| offer).await;
    connected(&mut events, 2).await;

    flow(&ann, &mut bob, 50).await;
    flow(&bob, &mut ann, 50).await;
    let slots = vec![
        SlotView {
            mid: "2".to_owned(),
            shows: Some((participant(1), Source::Microphone)),
        },
        SlotView {
            mid: "3".to_owned(),
            shows: Some((participant(1), Source::Camera)),
        },
    ];
    let full = Event::Slots {
        meeting: MEETING,
        peer: participant(2),
        slots,
    };
    until(&mut events, |event| (*event == full).then_some(())).await;

    ann.connection.close().await.unwrap();
    let lost = until(&mut events, |event| match event {
        Event::Lost { peer, reason, .. } if *peer == participant(1) => Some(*reason),
        _ => None,
    });
    assert_eq!(lost.await, LostReason::Closed);
    sfu.send(Command::Remove {
        meeting: MEETING,
        peer: participant(1),
    })
    .unwrap();
    let empty = until(&mut events, |event| match event {
        Event::Slots { peer, slots, .. } if *peer == participant(2) => {
            slots.iter().all(|slot| slot.shows.is_none()).then_some(())
        }
        _ => None,
    });
    empty.await;
    sfu.stop();
    assert_eq!(events.recv().await, None, "the events end with the worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_another_certificate_than_its_offer_named_gets_nothing() {
    let (sfu, mut events) = start();
    let (mut ann, mut bob, mut eve) = (
        Client::new(1).await,
        Client::new(2).await,
        Client::new(3).await,
    );
    ann.join(&sfu, 1, |offer| offer).await;
    bob.join(&sfu, 2, |offer| offer).await;
    let forged = format!("a=fingerprint:sha-256 {}", ["AB"; 32].join(":"));
    let forge = |offer: String| {
        let lines = offer.lines().map(|line| {
            if line.starts_with("a=fingerprint:") {
                &forged
            } else {
                line
            }
        });
        lines.flat_map(|line| [line, "\r\n"]).collect()
    };
    eve.join(&sfu, 3, forge).await;
    let refused = until(&mut events, |event| match event {
        Event::Lost { peer, reason, .. } if *peer == participant(3) => Some(*reason),
        _ => None,
    });
    assert_eq!(refused.await, LostReason::Fingerprint);
    flow(&ann, &mut bob, 50).await;
    assert_eq!(eve.received(), (0, 0));
    eve.send(0).await;
    sfu.send(Command::Close { meeting: MEETING }).unwrap();
    sfu.stop();
    while let Some(event) = events.recv().await {
        assert!(
            !matches!(event, Event::Published { peer, .. } if peer == participant(3)),
            "{event:?}"
        );
    }
    // What it takes its connection for does not matter, as long as nothing came over it.
    while eve.states.try_recv().is_ok() {}
    assert_eq!(eve.received(), (0, 0));
}

#[tokio::test]
async fn a_bad_offer_is_answered_with_its_reason() {
    let (sfu, _events) = start();
    let (reply, answer) = oneshot::channel();
    let command = Command::Negotiate {
        meeting: MEETING,
        peer: participant(1),
        offer: "v=1".to_owned(),
        tracks: Vec::new(),
        allowed: HashSet::new(),
        reply,
    };
    sfu.send(command).unwrap();
    let error = timeout(PATIENCE, answer)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        error.to_string().starts_with("the offer is not valid SDP"),
        "{error}"
    );
    sfu.stop();
    assert!(
        sfu.send(Command::Close { meeting: MEETING }).is_err(),
        "it has stopped"
    );
}
