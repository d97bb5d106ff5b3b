create table apps (
    id bytea primary key check (octet_length(id) = 12),
    name text not null unique check (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    -- Signs the deliveries to the webhook URLs of the app's rooms; sealed.
    room_webhook_secret bytea not null,
    -- Whether the first start or the bootstrap made it: it then answers on localhost.
    is_default boolean not null default false,
    created_at timestamptz not null
);
create unique index apps_one_default on apps (is_default) where is_default;

alter table apps enable row level security;
create policy tenant on apps to plenum_app using (id = plenum_tenant());
create policy everything on apps to plenum_system using (true) with check (true);
grant select on apps to plenum_app;
grant select, insert, update on apps to plenum_system;

create table secret_keys (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    -- SHA-256 of the key, which is random and is shown only once.
    hash bytea not null unique check (octet_length(hash) = 32),
    last_four text not null,
    created_at timestamptz not null,
    revoked_at timestamptz
);
create index secret_keys_app on secret_keys (app_id);

alter table secret_keys enable row level security;
create policy tenant on secret_keys to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on secret_keys to plenum_system using (true) with check (true);
grant select on secret_keys to plenum_app;
grant select, insert, update on secret_keys to plenum_system;

create table rooms (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    name text not null check (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- What the room asks of its meetings, by the names of the API; a property that is not there has its default.
    rules jsonb not null,
    meeting_join_webhook text,
    meeting_left_webhook text,
    meeting_started_webhook text,
    meeting_ended_webhook text,
    -- argon2id, as a PHC string.
    password_hash text,
    -- Has the stream key; sealed.
    rtmp_out_url bytea,
    -- How often the room was changed.
    version integer not null,
    created_at timestamptz not null,
    archived_at timestamptz
);
create index rooms_newest on rooms (app_id, id desc) where archived_at is null;
create unique index rooms_name_unless_archived on rooms (app_id, name) where archived_at is null;

alter table rooms enable row level security;
create policy tenant on rooms to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on rooms to plenum_system using (true) with check (true);
grant select, insert, update on rooms to plenum_app;
grant select on rooms to plenum_system;
