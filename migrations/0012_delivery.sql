set local lock_timeout = '5s';

alter table webhook_deliveries
    -- Host and port that it goes to, as its endpoint has them: what is to be sent to one receiver stands in one queue.
    add column receiver text not null default '',
    -- Whether it stands in its receiver's queue. Otherwise it waits until `due_at`: for its next attempt, for the end of the
    -- one under way, or for the delivery before it in its line.
    add column queued boolean not null default true;

-- By a hash of the receiver, so that a walk along the queues of an app can begin anywhere among them.
create index webhook_deliveries_queues on webhook_deliveries (app_id, hashtext(receiver), due_at, seq)
    where queued and due_at is not null;
-- Who holds a line, without those behind it or past it.
create index webhook_deliveries_holders on webhook_deliveries (endpoint_id, meeting_id, seq) where holds_line;
create index webhook_deliveries_waiting on webhook_deliveries (due_at) where not queued and due_at is not null;
grant update (receiver) on webhook_deliveries to plenum_app;

alter table webhook_endpoints
    -- When the first attempt failed after which none succeeded; null while they succeed.
    add column failing_since timestamptz,
    -- Why it was disabled.
    add column disabled_reason text check (disabled_reason in ('gone', 'failing', 'request'));
grant update (disabled_reason, failing_since) on webhook_endpoints to plenum_app, plenum_system;

-- Mail to apps' people, written in the transaction of its cause.
create table mails (
    id bytea primary key check (octet_length(id) = 12),
    app_id bytea not null references apps (id) on delete cascade,
    -- What it is about: one app is not written to twice about the same.
    topic text not null,
    recipient text not null,
    subject text not null,
    body_text text not null,
    body_html text not null,
    created_at timestamptz not null,
    -- When the next attempt may start; while one is under way, when its lease ends; null when there will be none.
    due_at timestamptz,
    -- Attempts so far. Each claim raises it, and an outcome is recorded only for the latest one.
    attempt integer not null default 0,
    -- `logged` where no mail server was set.
    outcome text check (outcome in ('sent', 'logged', 'failed')),
    ended_at timestamptz,
    -- Why the last attempt did not succeed.
    error text,
    constraint mails_topic unique (app_id, topic),
    constraint mails_ended check ((due_at is null) = (outcome is not null) and (outcome is null) = (ended_at is null))
);
create index mails_due on mails (due_at) where due_at is not null;
create index mails_ended_at on mails (ended_at) where ended_at is not null;

alter table mails enable row level security;
create policy tenant on mails to plenum_app using (app_id = plenum_tenant()) with check (app_id = plenum_tenant());
create policy everything on mails to plenum_system using (true) with check (true);
grant select, insert on mails to plenum_app;
grant select, insert, delete, update (due_at, attempt, outcome, ended_at, error) on mails to plenum_system;
