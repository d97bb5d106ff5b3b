-- What callers have asked for under an `Idempotency-Key`, so that asking again does not do it again. Kept for a day.
create table idempotency_keys (
    app_id bytea not null references apps (id) on delete cascade,
    key text not null check (length(key) between 1 and 255),
    -- HMAC-SHA256 of what was asked for, by a key made from the master key.
    request bytea not null check (octet_length(request) = 32),
    -- The room that came of it.
    room_id bytea check (octet_length(room_id) = 12),
    created_at timestamptz not null,
    primary key (app_id, key)
);
create index idempotency_keys_age on idempotency_keys (app_id, created_at);

alter table idempotency_keys enable row level security;
create policy tenant on idempotency_keys to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on idempotency_keys to plenum_system using (true) with check (true);
grant select, insert, update, delete on idempotency_keys to plenum_app;
grant select on idempotency_keys to plenum_system;
