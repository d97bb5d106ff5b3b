//! The metering ledger: one row per stay, written in the transaction that ends the stay. Append-only.

mod store;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::id::{AppId, MeetingId, ParticipantId};

/// A stay that is over.
#[derive(Clone, Copy, Debug)]
pub struct Stay {
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

/// Writes stays in a meeting of `app` into the ledger.
pub async fn append(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    stays: &[Stay],
) -> sqlx::Result<()> {
    if stays.is_empty() {
        Ok(())
    } else {
        store::insert(conn, app, meeting, stays).await
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
