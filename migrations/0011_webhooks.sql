set local lock_timeout = '5s';

-- An event may concern a room alone: somebody was refused before there was a meeting, or the room expired. It has no number
-- then, and waits for no other.
alter table events alter column meeting_id drop not null;
alter table events alter column seq drop not null;
alter table events add constraint events_number check (seq is null or meeting_id is not null);
alter table webhook_deliveries alter column meeting_id drop not null;
alter table webhook_deliveries alter column seq drop not null;
