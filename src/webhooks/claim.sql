-- Claims queued deliveries; `store::claim` tells what for, and gives: $1 now, $2 the end of the lease, $3 places that are free,
-- $4 to $7 the receivers that something is known of, $8 to $10 the apps that have attempts under way, $11 places that are free
-- for receivers that are not known to answer, $12 and $13 the places of any other app, $14 those of any other receiver, $15
-- where the walk along an app's queues begins, $16 how many of them it passes.
with recursive known as (
    select * from unnest($4::bytea[], $5::text[], $6::bigint[], $7::boolean[]) as known (app_id, receiver, free, proven)
), busy as (
    select * from unnest($8::bytea[], $9::bigint[], $10::bigint[]) as busy (app_id, free, unproven)
),
-- The apps that have a queue: each step is one probe of the index.
tenant as (
    (select app_id from webhook_deliveries where queued and due_at is not null order by app_id limit 1)
    union all
    select next.app_id from tenant t cross join lateral (
        select d.app_id from webhook_deliveries d
        where d.queued and d.due_at is not null and d.app_id > t.app_id
        order by d.app_id limit 1
    ) next
), app as (
    select t.app_id, coalesce(b.free, $12) as free, coalesce(b.unproven, $13) as unproven
    from tenant t left join busy b using (app_id) where coalesce(b.free, $12) > 0
),
-- Their queues, from $15 on and then from the first: each step is one probe again, or two where it begins anew.
queue as (
    select a.app_id, 1 as nth, first.key, first.receiver, first.due_at
    from app a cross join lateral (
        (select hashtext(d.receiver) as key, d.receiver, d.due_at from webhook_deliveries d
         where d.queued and d.due_at is not null and d.app_id = a.app_id and hashtext(d.receiver) >= $15
         order by hashtext(d.receiver), d.due_at limit 1)
        union all
        (select hashtext(d.receiver), d.receiver, d.due_at from webhook_deliveries d
         where d.queued and d.due_at is not null and d.app_id = a.app_id and hashtext(d.receiver) < $15
         order by hashtext(d.receiver), d.due_at limit 1)
        limit 1
    ) first
    union all
    select q.app_id, q.nth + 1, next.key, next.receiver, next.due_at
    from queue q cross join lateral (
        (select hashtext(d.receiver) as key, d.receiver, d.due_at from webhook_deliveries d
         where d.queued and d.due_at is not null and d.app_id = q.app_id and hashtext(d.receiver) > q.key
            and hashtext(d.receiver) <= case when q.key >= $15 then 2147483647 else $15 - 1 end
         order by hashtext(d.receiver), d.due_at limit 1)
        union all
        (select hashtext(d.receiver), d.receiver, d.due_at from webhook_deliveries d
         where q.key >= $15 and d.queued and d.due_at is not null and d.app_id = q.app_id and hashtext(d.receiver) < $15
         order by hashtext(d.receiver), d.due_at limit 1)
        limit 1
    ) next
    where q.nth < $16
),
-- Those with a free place, and of them as many as there are places.
open as (
    select q.app_id, q.key, q.due_at, coalesce(k.free, $14) as free, coalesce(k.proven, false) as proven,
        row_number() over (partition by q.app_id, coalesce(k.proven, false) order by q.due_at) as of_app
    from queue q left join known k using (app_id, receiver) where coalesce(k.free, $14) > 0
), front as (
    select o.*, a.free as app_free, a.unproven as app_unproven
    from (
        select o.*, row_number() over (partition by o.proven order by o.of_app, o.due_at) as of_all
        from open o join app a using (app_id)
        where o.of_app <= case when o.proven then a.free else a.unproven end
    ) o join app a using (app_id)
    where o.proven or o.of_all <= $11
    order by o.of_app, o.due_at limit $3
),
-- Their first deliveries, and what is to become of each.
candidate as (
    select c.id, c.app_id, c.due_at, c.seq, c.holder, c.fate, f.free, f.proven, f.app_free, f.app_unproven,
        row_number() over (partition by c.app_id, f.key, c.fate order by c.due_at, c.seq) as of_receiver
    from front f cross join lateral (
        select d.id, d.app_id, d.due_at, d.seq, holder.id as holder,
            case when e.disabled_at is not null then 'skip' when holder.id is not null then 'wait' else 'go' end as fate
        from (
            select * from webhook_deliveries d
            where d.queued and d.due_at is not null and d.app_id = f.app_id and hashtext(d.receiver) = f.key
            order by d.due_at, d.seq limit 2 * f.free
        ) d join webhook_endpoints e on e.id = d.endpoint_id left join lateral (
            select earlier.id from webhook_deliveries earlier
            where d.holds_line and earlier.endpoint_id = d.endpoint_id and earlier.meeting_id = d.meeting_id
                and earlier.seq < d.seq and earlier.holds_line
            order by earlier.seq limit 1
        ) holder on true
    ) c
), of_app as (
    select *, row_number() over (partition by app_id order by of_receiver, due_at, seq) as nth
    from (
        select *, row_number() over (partition by app_id, proven order by of_receiver, due_at, seq) as nth_of_kind
        from candidate where fate = 'go' and of_receiver <= free
    ) c where proven or nth_of_kind <= app_unproven
), of_all as (
    select id, proven, due_at, seq, nth, row_number() over (partition by proven order by nth, due_at, seq) as nth_of_kind
    from of_app where nth <= app_free
), go as (
    select d.id from of_all c join webhook_deliveries d using (id)
    where (c.proven or c.nth_of_kind <= $11) and d.queued and d.due_at is not null
    order by c.nth, c.due_at, c.seq limit $3
    for update of d skip locked
),
-- If nobody lets it pass, it is looked at again some time after the one before it is due.
wait as (
    select d.id, greatest(holder.due_at, $1) + interval '1 minute' as until
    from candidate c join webhook_deliveries d using (id) join webhook_deliveries holder on holder.id = c.holder
    where c.fate = 'wait' and d.queued and d.due_at is not null and holder.holds_line
    for update of d skip locked for share of holder skip locked
), skip as (
    select d.id from candidate c join webhook_deliveries d using (id)
    where c.fate = 'skip' and d.queued and d.due_at is not null
    for update of d skip locked
), decided as (
    select id, true as goes, $2::timestamptz as due_at, null as outcome from go
    union all select id, false, until, null from wait
    union all select id, false, null, 'skipped' from skip
)
update webhook_deliveries d
set attempt = d.attempt + decided.goes::integer, due_at = decided.due_at, outcome = decided.outcome,
    holds_line = d.holds_line and decided.outcome is null, queued = false
from decided, webhook_endpoints e, events v, apps a
where d.id = decided.id and e.id = d.endpoint_id and v.id = d.event_id and a.id = d.app_id
returning decided.goes as "goes!", d.id, d.app_id, d.event_id, d.meeting_id, d.seq, d.endpoint_id, d.attempt,
    d.attempt - d.retries_from as "try_number!", d.receiver, e.url, e.failing_since is not null as "is_failing!",
    case when decided.goes then v.body else '' end as "body!",
    case when e.room_id is not null then a.room_webhook_secret end as room_webhook_secret,
    array(
        select s.id || s.secret from webhook_secrets s
        where s.app_id = d.app_id
            and s.endpoint_id is not distinct from case when e.room_id is null then e.id end
            and (s.retires_at is null or s.retires_at > $1)
        order by s.retires_at desc nulls first, s.id desc
    ) as "secrets!"
