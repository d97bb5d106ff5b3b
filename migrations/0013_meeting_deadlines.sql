set local lock_timeout = '5s';

-- What whoever takes a meeting over must know of its deadlines.
alter table meetings
    -- Since when one participant is alone, of several.
    add column one_left_since timestamptz,
    -- Since when nobody shares; null while somebody does, and in a room without a rule about it.
    add column quiet_since timestamptz;
