-- What an app's tokens are signed with. A token names the row that signed it.
create table token_secrets (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    -- Sealed; bound to this row.
    secret bytea not null,
    created_at timestamptz not null,
    -- From when on it opens nothing; null for the one that signs.
    retires_at timestamptz
);
create unique index token_secrets_one_signs on token_secrets (app_id) where retires_at is null;
create index token_secrets_app on token_secrets (app_id);

alter table token_secrets enable row level security;
create policy tenant on token_secrets to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on token_secrets to plenum_system using (true) with check (true);
grant select, insert, update (retires_at), delete on token_secrets to plenum_app;
grant select, insert, update (secret) on token_secrets to plenum_system;

-- Who the app says that somebody is, by their token.
alter table participants
    add column token_id bytea check (octet_length(token_id) = 12),
    add column external_user_id text,
    add column email text,
    add column meta text,
    -- Whether time_up_at is their token's limit, which the room's does not move.
    add column has_own_limit boolean not null default false,
    -- When they are put out because their token expires (ejectAtTokenExp).
    add column token_expires_at timestamptz;
