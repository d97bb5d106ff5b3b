create table meetings (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    room_id bytea not null references rooms (id),
    status text not null check (status in ('open', 'live', 'ended')),
    -- The node that alone may write about this meeting, until lease_until; each claim raises the epoch, and every write
    -- of an owner names the epoch that it claimed.
    owner_node bytea check (octet_length(owner_node) = 12),
    epoch bigint not null,
    lease_until timestamptz,
    -- The last moment when an owner is known to have lived.
    renewed_at timestamptz not null,
    -- The owner's last transaction, by which an unknown outcome is looked up.
    batch_id bytea check (octet_length(batch_id) = 12),
    -- Number of the next event of this meeting.
    next_seq bigint not null,
    -- Stays so far, those that ended included.
    participant_count integer not null,
    -- Since when nobody is in.
    empty_since timestamptz,
    -- The latest time at which something became true in it.
    last_at timestamptz not null,
    created_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    end_reason text
);
create unique index meetings_one_per_room on meetings (room_id) where status <> 'ended';
create index meetings_owner on meetings (owner_node) where status <> 'ended';
create index meetings_app on meetings (app_id, created_at);

alter table meetings enable row level security;
create policy tenant on meetings to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on meetings to plenum_system using (true) with check (true);
grant select, insert, update on meetings to plenum_app;
grant select, update on meetings to plenum_system;

create table participants (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    meeting_id bytea not null references meetings (id),
    name text not null,
    role text not null check (role in ('moderator', 'participant')),
    -- SHA-256 of the token with which a lost connection may come back; null where the client cannot.
    resume_hash bytea check (octet_length(resume_hash) = 32),
    joined_at timestamptz not null,
    -- When the room's or the token's time limit puts them out.
    time_up_at timestamptz,
    -- Since when the connection is lost; null while it stands.
    away_since timestamptz,
    left_at timestamptz,
    leave_reason text
);
create index participants_meeting on participants (meeting_id);
create index participants_open on participants (meeting_id) where left_at is null;

alter table participants enable row level security;
create policy tenant on participants to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on participants to plenum_system using (true);
grant select, insert, update on participants to plenum_app;
grant select on participants to plenum_system;

-- What is billed: one row per stay that ended. Append-only.
create table usage (
    participant_id bytea primary key references participants (id),
    app_id bytea not null references apps (id) on delete cascade,
    meeting_id bytea not null references meetings (id),
    class text not null check (class in ('video', 'audio')),
    joined_at timestamptz not null,
    left_at timestamptz not null,
    -- floor(left_at) - floor(joined_at), in unix seconds.
    seconds bigint not null check (seconds >= 0)
);
create index usage_app on usage (app_id, joined_at);

alter table usage enable row level security;
create policy tenant on usage to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on usage to plenum_system using (true);
grant select, insert on usage to plenum_app;
grant select on usage to plenum_system;

-- Instants at which a rule fires; one row per kind and subject. Cancelling sets due_at to null, so that no version is
-- used twice.
create table deadlines (
    kind text not null,
    subject bytea not null check (octet_length(subject) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    -- The meeting whose owner fires it; null where it concerns a room.
    meeting_id bytea references meetings (id),
    due_at timestamptz,
    version bigint not null,
    primary key (kind, subject)
);
create index deadlines_of_rooms on deadlines (due_at) where meeting_id is null and due_at is not null;
create index deadlines_of_meetings on deadlines (meeting_id) where due_at is not null;

alter table deadlines enable row level security;
create policy tenant on deadlines to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on deadlines to plenum_system using (true) with check (true);
grant select, insert, update, delete on deadlines to plenum_app;
grant select, update on deadlines to plenum_system;

-- What others ask of a meeting's owner. The owner removes the row in the transaction that obeys it.
create table meeting_commands (
    id bigint generated always as identity primary key,
    app_id bytea not null references apps (id) on delete cascade,
    meeting_id bytea not null references meetings (id),
    command jsonb not null,
    created_at timestamptz not null
);
create index meeting_commands_meeting on meeting_commands (meeting_id);

alter table meeting_commands enable row level security;
create policy tenant on meeting_commands to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on meeting_commands to plenum_system using (true);
grant select, insert, delete on meeting_commands to plenum_app;
grant select, delete on meeting_commands to plenum_system;
