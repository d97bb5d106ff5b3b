//! What people say and show to each other.

use chrono::{DateTime, Utc};

use super::{Decision, Effect};
use crate::meetings::{ChatMessage, Fact, Notice, Participant, ShownChange};

/// A participant says something of their devices or hand.
pub fn show(decision: &mut Decision, participant: &Participant, change: ShownChange) {
    let Participant { id, shown, .. } = *participant;
    let shown = change.over(shown);
    decision.facts.push(Fact::Showed {
        participant: id,
        shown,
    });
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
