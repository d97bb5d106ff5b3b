//! The only SQL that touches `usage`.

use sqlx::PgConnection;

use super::Stay;
use crate::id::{AppId, MeetingId};

pub async fn insert(
    conn: &mut PgConnection,
    app: AppId,
    meeting: MeetingId,
    stays: &[Stay],
) -> sqlx::Result<()> {
    let participants: Vec<&[u8]> = stays
        .iter()
        .map(|stay| stay.participant.as_bytes().as_slice())
        .collect();
    let joins: Vec<_> = stays.iter().map(|stay| stay.joined_at).collect();
    let leaves: Vec<_> = stays.iter().map(|stay| stay.left_at).collect();
    let seconds: Vec<i64> = stays.iter().map(Stay::seconds).collect();
    sqlx::query!(
        "insert into usage (participant_id, app_id, meeting_id, class, joined_at, left_at, seconds)
             select participant_id, $1, $2, 'video', joined_at, left_at, seconds
             from unnest($3::bytea[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
                 as stay (participant_id, joined_at, left_at, seconds)",
        app as AppId,
        meeting as MeetingId,
        &participants as &[&[u8]],
        &joins,
        &leaves,
        &seconds,
    )
    .execute(conn)
    .await?;
    Ok(())
}
