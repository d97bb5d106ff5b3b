//! What people say and show to each other. The room's rules hold here, whatever a client shows or hides.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Decision, Effect};
use crate::{
    chat,
    id::ParticipantId,
    meetings::{
        ChatMessage, Fact, MediaOffer, Notice, Participant, Permission, Refusal, Relay, RelayAbout,
        RelayTarget, Role, Sharing, Shown, ShownChange, Speaker, State,
    },
    rooms::MediaMode,
};

/// A participant says something of their devices or hand.
///
/// # Errors
///
/// [`Refusal::NotAllowed`] where they raise a hand that stays down in this room.
pub fn show(
    decision: &mut Decision,
    state: &State,
    participant: &Participant,
    change: ShownChange,
) -> Result<(), Refusal> {
    let (id, shown) = (participant.id, change.over(participant.shown));
    permit_hand(state, participant, shown.is_hand_raised)?;
    let sharing = Sharing {
        says_sound: participant.sharing.says_sound || change.is_muted.is_some(),
        says_picture: participant.sharing.says_picture || change.is_video_off.is_some(),
        ..participant.sharing
    };
    if sharing != participant.sharing {
        decision.facts.push(Fact::Shares {
            participant: id,
            sharing,
        });
    }
    let updated = Notice::Updated {
        participant: id,
        shown,
    };
    showed(decision, id, shown, updated, Some(id));
    Ok(())
}

/// A participant raises their hand, or lowers it.
///
/// # Errors
///
/// [`Refusal::NotAllowed`] where hands stay down in this room.
pub fn hand(
    decision: &mut Decision,
    state: &State,
    participant: &Participant,
    raised: bool,
) -> Result<(), Refusal> {
    let id = participant.id;
    permit_hand(state, participant, raised)?;
    let shown = Shown {
        is_hand_raised: raised,
        ..participant.shown
    };
    let notice = Notice::Hand {
        participant: id,
        raised,
    };
    showed(decision, id, shown, notice, Some(id));
    Ok(())
}

/// A participant reacts.
///
/// # Errors
///
/// [`Refusal::NotAllowed`] where nobody may, or they may not.
pub fn react(
    decision: &mut Decision,
    state: &State,
    from: &Participant,
    reaction: &Arc<str>,
) -> Result<(), Refusal> {
    let may = state.room.rules.enable_reactions && state.may(from, Permission::Reactions);
    permit(may, "to react")?;
    decision.effects.push(Effect::TellAll {
        except: Some(from.id),
        notice: Notice::Reaction {
            from: from.id,
            reaction: reaction.clone(),
        },
    });
    Ok(())
}

/// A participant begins to record on their own device, or stops; all are told, they too.
///
/// # Errors
///
/// [`Refusal::Unauthorized`].
pub fn record(decision: &mut Decision, by: &Participant, on: bool) -> Result<(), Refusal> {
    if by.role != Role::Moderator {
        let what = if on {
            "start recording"
        } else {
            "stop recording"
        };
        return Err(Refusal::Unauthorized(what));
    }
    let shown = Shown {
        is_recording: on,
        ..by.shown
    };
    let notice = Notice::Recording { by: by.id, on };
    showed(decision, by.id, shown, notice, None);
    Ok(())
}

/// A participant's client says something to another's. Where that one is not in, nobody is told anything.
///
/// # Errors
///
/// [`Refusal::MeshNotAllowed`], [`Refusal::SfuNotAllowed`] where media flows otherwise in this room; [`Refusal::NotAllowed`]
/// where they may send no files.
pub fn relay(
    decision: &mut Decision,
    state: &State,
    from: &Participant,
    message: &Relay,
) -> Result<(), Refusal> {
    let rules = &state.room.rules;
    match message.about {
        RelayAbout::Media => match (rules.media_mode, message.to) {
            (MediaMode::Mesh, RelayTarget::Sfu) => return Err(Refusal::SfuNotAllowed),
            // The SFU has one address, which is in its answer, and needs to be told no other.
            (MediaMode::Sfu, RelayTarget::Sfu) | (MediaMode::Mesh, _) => {}
            (MediaMode::Sfu, _) => return Err(Refusal::MeshNotAllowed),
        },
        RelayAbout::File => {
            let may = rules.enable_file_share && state.may(from, Permission::ChatFiles);
            permit(may, "to send files")?;
        }
        RelayAbout::FileAnswer => permit(rules.enable_file_share, "to receive files")?,
    }
    if let RelayTarget::Participant(to) = message.to
        && state.find(to).is_some()
    {
        let notice = Notice::Relayed {
            from: from.id,
            frame: message.frame.clone(),
        };
        decision.effects.push(Effect::Tell(to, notice));
    }
    Ok(())
}

/// A participant's client offers media to the SFU.
///
/// # Errors
///
/// [`Refusal::SfuNotAllowed`] in a mesh room.
pub fn offer(
    decision: &mut Decision,
    state: &State,
    by: Speaker,
    offer: &MediaOffer,
) -> Result<(), Refusal> {
    state.speaker(by)?;
    if state.room.rules.media_mode == MediaMode::Mesh {
        return Err(Refusal::SfuNotAllowed);
    }
    decision.effects.push(Effect::Negotiate(by, offer.clone()));
    Ok(())
}

/// A participant writes to all, or to one, and reads it as the others do, after them. What is written to all is kept.
///
/// # Errors
///
/// [`Refusal::NotAllowed`] where they may not write; [`Refusal::TargetNotFound`] where that one is not in.
pub fn chat(
    decision: &mut Decision,
    state: &State,
    from: &Participant,
    message: &ChatMessage,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let may_write = state.reads_chat(from) && state.may(from, Permission::ChatSend);
    permit(may_write, "to write to the chat")?;
    let mut readers: Vec<ParticipantId> = match message.to {
        Some(to) => {
            permit(
                state.may(from, Permission::PrivateChat),
                "to write to one person",
            )?;
            let to = state.find(to).ok_or(Refusal::TargetNotFound)?;
            permit(state.reads_chat(to), "to write to this person")?;
            vec![to.id]
        }
        None => {
            let all = state.participants.iter();
            let readers = all.filter(|participant| state.reads_chat(participant));
            readers.map(|participant| participant.id).collect()
        }
    };
    readers.retain(|reader| *reader != from.id);
    readers.push(from.id);
    if message.to.is_none() {
        decision.effects.push(Effect::KeepChat(Arc::new(chat::Line {
            id: message.id,
            participant: from.id,
            name: from.name.as_str().into(),
            text: message.text.clone(),
            reply_to: message.reply_to.clone(),
            sent_at: now,
        })));
    }
    let notice = Notice::Chat {
        from: from.id,
        message: message.clone(),
        at: now,
    };
    decision.effects.push(Effect::TellThese(readers, notice));
    Ok(())
}

/// A participant is so now, and all are told by `notice`, or all but one.
fn showed(
    decision: &mut Decision,
    participant: ParticipantId,
    shown: Shown,
    notice: Notice,
    except: Option<ParticipantId>,
) {
    decision.facts.push(Fact::Showed { participant, shown });
    decision.effects.push(Effect::TellAll { except, notice });
}

fn permit_hand(state: &State, participant: &Participant, raised: bool) -> Result<(), Refusal> {
    let was = participant.shown.is_hand_raised;
    permit(
        was || !raised || state.room.rules.enable_raise_hand,
        "to raise your hand",
    )
}

fn permit(allowed: bool, what: &'static str) -> Result<(), Refusal> {
    if allowed {
        Ok(())
    } else {
        Err(Refusal::NotAllowed(what))
    }
}
