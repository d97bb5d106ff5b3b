-- What an app has set: a JSON object, in which what is absent has its default; and how often it was changed.
alter table apps
    add column settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
    add column settings_version integer not null default 0;
grant update (settings, settings_version) on apps to plenum_app;

-- What `/health` counts on an app's host.
create index meetings_of_app on meetings (app_id) where status <> 'ended';
