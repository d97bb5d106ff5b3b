set local lock_timeout = '5s';

alter table rooms
    -- Made by somebody without a credential.
    add column anonymous boolean not null default false,
    -- SHA-256 of the token with which whoever made it moderates.
    add column creator_token_hash bytea check (octet_length(creator_token_hash) = 32),
    -- Keyed hash of the address that made it, by which its unused rooms are counted.
    add column creator_address_hash bytea check (octet_length(creator_address_hash) = 32);
create index rooms_anonymous on rooms (app_id, creator_address_hash) where anonymous and archived_at is null;

-- Keyed hash of the address that somebody without a token joined from, while they are in: what a ban keeps out.
alter table participants
    add column address_hash bytea check (octet_length(address_hash) = 32);

-- Who was put out of a meeting and is kept out until it ends; its rows go with its end.
create table meeting_blocks (
    app_id bytea not null references apps (id) on delete cascade,
    meeting_id bytea not null references meetings (id) on delete cascade,
    kind text not null check (kind in ('token', 'resume', 'person', 'address')),
    value bytea not null,
    primary key (meeting_id, kind, value)
);
create index meeting_blocks_app on meeting_blocks (app_id);

alter table meeting_blocks enable row level security;
create policy tenant on meeting_blocks to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on meeting_blocks to plenum_system using (true) with check (true);
grant select, insert, delete on meeting_blocks to plenum_app;
