-- The two roles that every query runs under, and the tenant of a transaction.
--
-- plenum_app sees one tenant: the app that the transaction names. plenum_system runs the few store functions that are
-- cross-tenant by nature. Both are reached by SET ROLE from the role that the server logs in with, which every
-- start makes sure of: logins come and go, and do not belong to the schema.
do $$
begin
    create role plenum_app nologin;
exception
    when duplicate_object or unique_violation then null; -- another database of this server has made it
end
$$;

do $$
begin
    create role plenum_system nologin;
exception
    when duplicate_object or unique_violation then null;
end
$$;

-- The app whose rows the transaction may touch; null, and so no row at all, where none was named.
create function plenum_tenant() returns bytea
    language sql stable parallel safe
    return decode(nullif(current_setting('plenum.app_id', true), ''), 'hex');
