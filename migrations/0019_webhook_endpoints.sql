set local lock_timeout = '5s';

-- A test of an endpoint is an event that concerns no room.
alter table events alter column room_id drop not null;

-- An endpoint is a room's URL, or the app's own: that gets what happens in all of its rooms.
alter table webhook_endpoints alter column room_id drop not null;
alter table webhook_endpoints
    -- LIKE patterns of the kinds of events that the app's own gets.
    add column events text[],
    add column description text,
    -- Since when it is gone for the app. The row stays as long as its deliveries.
    add column deleted_at timestamptz,
    add constraint webhook_endpoints_events check ((room_id is null) = (events is not null));
create index webhook_endpoints_of_app on webhook_endpoints (app_id, id) where room_id is null and deleted_at is null;
create index webhook_endpoints_deleted on webhook_endpoints (app_id) where deleted_at is not null;
grant delete, update (url, receiver, events, description, deleted_at) on webhook_endpoints to plenum_app;

-- Attempts before it was sent again: the schedule of its retries began anew there.
alter table webhook_deliveries add column retries_from integer not null default 0;
create index webhook_deliveries_newest on webhook_deliveries (endpoint_id, id);
grant update (due_at, outcome, holds_line, retries_from) on webhook_deliveries to plenum_app;

-- What signs deliveries: of the app's own endpoints all that do; of the URLs of rooms those that were replaced and sign along
-- for a while, beside apps.room_webhook_secret.
create table webhook_secrets (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    -- Null for the URLs of rooms.
    endpoint_id bytea references webhook_endpoints (id) on delete cascade,
    -- Sealed; bound to this row.
    secret bytea not null,
    created_at timestamptz not null,
    -- From when on it does not sign any more.
    retires_at timestamptz check (retires_at is not null or endpoint_id is not null)
);
create unique index webhook_secrets_one_stays on webhook_secrets (endpoint_id) where retires_at is null;
create index webhook_secrets_endpoint on webhook_secrets (app_id, endpoint_id);
grant update (room_webhook_secret) on apps to plenum_app;

alter table webhook_secrets enable row level security;
create policy tenant on webhook_secrets to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on webhook_secrets to plenum_system using (true) with check (true);
grant select, insert, update (retires_at), delete on webhook_secrets to plenum_app;
grant select, update (secret) on webhook_secrets to plenum_system;
