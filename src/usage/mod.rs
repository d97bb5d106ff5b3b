//! The metering ledger: one row per stay, written in the transaction that ends the stay. Append-only.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::id::{AppId, MeetingId, ParticipantId};

/// A stay that is over.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
    /// Whose meeting it was in.
    pub app: AppId,
    /// The meeting.
    pub meeting: MeetingId,
    /// The stay.
    pub participant: ParticipantId,
    /// Its start.
    pub joined_at: DateTime<Utc>,
    /// Its end.
    pub left_at: DateTime<Utc>,
}

impl Stay {
    /// What is billed: floor(leave) − floor(join) in unix seconds, so that parts of a stay add up to the whole.
    pub fn seconds(&self) -> i64 {
        (self.left_at.timestamp() - self.joined_at.timestamp()).max(0)
    }
}

/// Writes a stay into the ledger.
pub async fn append(conn: &mut PgConnection, stay: &Stay) -> sqlx::Result<()> {
    store::insert(conn, stay).await
}

mod store {
    //! The only SQL that touches `usage`.

    use sqlx::PgConnection;

    use super::Stay;
    use crate::id::{AppId, MeetingId, ParticipantId};

    pub async fn insert(conn: &mut PgConnection, stay: &Stay) -> sqlx::Result<()> {
        sqlx::query!(
            "insert into usage (participant_id, app_id, meeting_id, class, joined_at, left_at, seconds)
             values ($1, $2, $3, 'video', $4, $5, $6)",
            stay.participant as ParticipantId,
            stay.app as AppId,
            stay.meeting as MeetingId,
            stay.joined_at,
            stay.left_at,
            stay.seconds(),
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn the_seconds_of_two_stays_in_a_row_are_those_of_one() {
        let at = |millis| {
            DateTime::from_timestamp(1_700_000_000, 0).unwrap() + TimeDelta::milliseconds(millis)
        };
        let stay = |joined_at, left_at| Stay {
            app: AppId::from_bytes([1; 12]),
            meeting: MeetingId::from_bytes([2; 12]),
            participant: ParticipantId::from_bytes([3; 12]),
            joined_at,
            left_at,
        };
        assert_eq!(stay(at(900), at(1100)).seconds(), 1);
        assert_eq!(stay(at(100), at(900)).seconds(), 0);
        for cut in [1000, 1500, 1999, 2000] {
            let parts = stay(at(0), at(cut)).seconds() + stay(at(cut), at(5600)).seconds();
            assert_eq!(parts, stay(at(0), at(5600)).seconds(), "cut at {cut} ms");
        }
    }
}
