-- Sets the first deadline of a room that is made in the same statement.
create function plenum_new_room_deadline(app bytea, room bytea, kind text, due_at timestamptz) returns boolean
    language sql volatile
    begin atomic
        insert into deadlines (kind, subject, app_id, meeting_id, due_at, version)
        values (kind, room, app, null, due_at, 1)
        returning true;
    end;
