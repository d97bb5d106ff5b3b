set local lock_timeout = '5s';

-- What is read of meetings that were, and when what tells of people is removed.
alter table meetings
    -- People who were in at the same time, at most.
    add column max_concurrent integer not null default 0;

alter table participants
    -- What they joined with, as their browser says.
    add column browser text,
    add column os text,
    -- Null once what tells who it was has been removed.
    alter column name drop not null;

-- When an app's old data is looked through next.
alter table apps
    add column retention_due_at timestamptz not null default 'epoch';

-- The newest first, of an app and of a room.
create index meetings_newest on meetings (app_id, id desc);
create index meetings_room on meetings (room_id);
create index rooms_archived_name on rooms (app_id, name) where archived_at is not null;

-- A person, and the stays that grow old.
create index participants_person on participants (app_id, external_user_id) where external_user_id is not null;
create index participants_aging on participants (app_id, left_at) where name is not null;
create index events_person on events (app_id, (body::jsonb ->> 'externalUserId'))
    where body::jsonb ->> 'externalUserId' is not null;

grant delete, update (body) on events to plenum_app;
grant update (answer) on webhook_attempts to plenum_app;

-- An app goes with all that it has. These say what another reference of the same row says already, and without an index,
-- which every event would pay for, the end of each meeting or room would look through all of the table.
alter table events drop constraint events_room_id_fkey;
alter table webhook_endpoints drop constraint webhook_endpoints_room_id_fkey;
alter table webhook_deliveries drop constraint webhook_deliveries_meeting_id_fkey;
alter table usage drop constraint usage_meeting_id_fkey;
create index deadlines_meeting on deadlines (meeting_id) where meeting_id is not null;
create index webhook_deliveries_endpoint on webhook_deliveries (endpoint_id);
grant delete on apps to plenum_system;

-- A binary of 0010 writes no row that these would have refused.
create or replace function plenum_schema_minimum() returns bigint
    language sql immutable parallel safe
    return 10;
