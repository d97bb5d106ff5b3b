-- The two roles that every query runs under, and the tenant of a transaction.
--
-- plenum_app sees one tenant: the app that the transaction names. plenum_system runs the few store functions that are
-- cross-tenant by nature. Both are reached by SET ROLE from the role that the server logs in with.
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

do $$
begin
    if not pg_has_role(current_user, 'plenum_app', 'member') then
        execute format('grant plenum_app to %I', current_user);
    end if;
    if not pg_has_role(current_user, 'plenum_system', 'member') then
        execute format('grant plenum_system to %I', current_user);
    end if;
end
$$;

-- The app whose rows the transaction may touch; null, and so no row at all, where none was named.
create function plenum_tenant() returns bytea
    language sql stable parallel safe
    return decode(nullif(current_setting('plenum.app_id', true), ''), 'hex');
