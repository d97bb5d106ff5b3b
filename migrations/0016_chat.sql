-- What people write to all in a meeting. Kept with its room, and gone with it.
create table chat_messages (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    room_id bytea not null references rooms (id) on delete cascade,
    meeting_id bytea not null references meetings (id),
    participant_id bytea not null check (octet_length(participant_id) = 12),
    -- The writer's display name at that time.
    name text not null,
    text text not null,
    -- The message that it answers, as clients name it.
    reply_to text,
    sent_at timestamptz not null,
    -- In the order in which they were read: several may be of the same millisecond.
    number bigint generated always as identity
);
create index chat_messages_room on chat_messages (room_id, number);
create index chat_messages_meeting on chat_messages (meeting_id, number);
-- For erasure.
create index chat_messages_participant on chat_messages (participant_id);

alter table chat_messages enable row level security;
create policy tenant on chat_messages to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on chat_messages to plenum_system using (true) with check (true);
grant select, insert, delete on chat_messages to plenum_app;
