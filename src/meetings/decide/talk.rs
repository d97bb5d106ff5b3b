//! What people say and show to each other.

use chrono::{DateTime, Utc};

use super::{Decision, Effect};
use crate::meetings::{ChatMessage, Fact, Notice, Participant, Sharing, ShownChange};

/// A participant says something of their devices or hand.
pub fn show(decision: &mut Decision, participant: &Participant, change: ShownChange) {
    let Participant { id, shown, .. } = *participant;
    let shown = change.over(shown);
    decision.facts.push(Fact::Showed {
        participant: id,
        shown,
    });
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
    let notice = Notice::Updated {
        participant: id,
        shown,
    };
    decision.effects.push(Effect::TellAll {
        except: Some(id),
        notice,
    });
}

/// A participant writes to all, and reads it as all do.
pub fn chat(
    decision: &mut Decision,
    from: &Participant,
    message: &ChatMessage,
    now: DateTime<Utc>,
) {
    let notice = Notice::Chat {
        from: from.id,
        message: message.clone(),
        at: now,
    };
    decision.effects.push(Effect::TellAll {
        except: None,
        notice,
    });
}
