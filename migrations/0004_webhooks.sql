-- Facts in the life of meetings, each written in the transaction that made it true: the outbox.
create table events (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    room_id bytea not null references rooms (id),
    meeting_id bytea not null references meetings (id),
    -- Numbers the events of one meeting, in the order in which they came true.
    seq bigint not null,
    kind text not null,
    -- When it came true.
    at timestamptz not null,
    -- The JSON that receivers get, rendered once: every attempt sends, and signs, the same bytes.
    body text not null,
    unique (meeting_id, seq)
);
create index events_app on events (app_id, at);

alter table events enable row level security;
create policy tenant on events to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on events to plenum_system using (true);
grant select, insert on events to plenum_app;
grant select on events to plenum_system;

-- Where webhooks go. Whatever a room sends to one URL goes to one endpoint, so that it can keep its order.
create table webhook_endpoints (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    room_id bytea not null references rooms (id),
    url text not null,
    -- Host and port of the URL: endpoints that share them share one bound on the attempts under way.
    receiver text not null,
    created_at timestamptz not null,
    -- Since when it gets nothing: it answered 410 Gone.
    disabled_at timestamptz,
    constraint webhook_endpoints_room_url unique (app_id, room_id, url)
);

alter table webhook_endpoints enable row level security;
create policy tenant on webhook_endpoints to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on webhook_endpoints to plenum_system using (true) with check (true);
grant select, insert, update (disabled_at) on webhook_endpoints to plenum_app;
grant select, update (disabled_at) on webhook_endpoints to plenum_system;

-- One event on its way to one endpoint.
create table webhook_deliveries (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    event_id bytea not null references events (id) on delete cascade,
    endpoint_id bytea not null references webhook_endpoints (id) on delete cascade,
    -- The event's, repeated here because a meeting's deliveries to one endpoint stand in one line, by number.
    meeting_id bytea not null references meetings (id),
    seq bigint not null,
    -- When the next attempt may start; while one is under way, when its lease ends; null when there will be none.
    due_at timestamptz,
    -- Attempts so far. Each claim raises it, and an outcome is recorded only for the latest one.
    attempt integer not null,
    outcome text check (outcome in ('delivered', 'failed', 'skipped')),
    -- Whether the later ones of its line wait for it: until it ended, or failed three times.
    holds_line boolean not null,
    created_at timestamptz not null,
    constraint webhook_deliveries_once unique (event_id, endpoint_id),
    constraint webhook_deliveries_ended check ((due_at is null) = (outcome is not null)),
    constraint webhook_deliveries_line check (due_at is not null or not holds_line)
);
create index webhook_deliveries_due on webhook_deliveries (due_at) where due_at is not null;
create index webhook_deliveries_lines on webhook_deliveries (endpoint_id, meeting_id, seq) where due_at is not null;

alter table webhook_deliveries enable row level security;
create policy tenant on webhook_deliveries to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on webhook_deliveries to plenum_system using (true) with check (true);
grant select, insert on webhook_deliveries to plenum_app;
grant select, update on webhook_deliveries to plenum_system;

-- One HTTP try of a delivery.
create table webhook_attempts (
    delivery_id bytea not null references webhook_deliveries (id) on delete cascade,
    attempt integer not null,
    app_id bytea not null references apps (id) on delete cascade,
    at timestamptz not null,
    latency_ms integer not null check (latency_ms >= 0),
    -- HTTP status of the answer, and the first KiB of its body; null where none came.
    status smallint,
    answer text,
    -- Why it did not succeed; null where it did.
    error text,
    primary key (delivery_id, attempt)
);

alter table webhook_attempts enable row level security;
create policy tenant on webhook_attempts to plenum_app using (app_id = plenum_tenant());
create policy everything on webhook_attempts to plenum_system using (true) with check (true);
grant select on webhook_attempts to plenum_app;
grant select, insert on webhook_attempts to plenum_system;
