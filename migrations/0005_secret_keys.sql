-- What its owner is told of a key, and until when it opens. An older server writes none of it and asks for none: its keys
-- are live, of unknown prefix, and do not run out.
alter table secret_keys
    add column environment text not null default 'live' check (environment in ('live', 'test')),
    -- What a key of our own form begins with; null for one that the app chose itself.
    add column prefix text check (prefix in ('plenum_live_', 'plenum_test_')),
    -- The latest use that was written; one a minute is.
    add column last_used_at timestamptz,
    -- From when it opens nothing: it was rotated, and its successor is in use.
    add column expires_at timestamptz;

-- A new master key is for the secrets of all tenants.
grant update (rtmp_out_url) on rooms to plenum_system;
