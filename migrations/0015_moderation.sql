set local lock_timeout = '5s';

-- Whether moderators, or the app, have locked a running meeting; null: it is as its room says.
alter table meetings add column locked boolean;
-- By how much the app has moved the end that the room's meetingDurationSec gives, in seconds.
alter table meetings add column if not exists extended_by_sec bigint not null default 0;

-- What a participant may or may not do, where that is not as the room's lockSettings have it: true is may.
alter table participants add column permissions jsonb not null default '{}';

-- A command that somebody waits for is not removed when it is obeyed: the owner writes its answer, in the transaction that
-- obeys it, and the row is kept until then at least.
alter table meeting_commands add column answer json, add column keep_until timestamptz;
create index meeting_commands_answered on meeting_commands (keep_until) where answer is not null;
create index meeting_commands_open on meeting_commands (meeting_id) where answer is null;
grant update (answer) on meeting_commands to plenum_app;

-- The command that came of a request with an Idempotency-Key.
alter table idempotency_keys add column command_id bigint;
