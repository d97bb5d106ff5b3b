-- The lowest schema version that a binary must know, as its newest migration, to run against this schema: a start of an
-- older one is refused. A migration that contracts raises it (README.md); 0 lets all run. Being no table it is no tenant's,
-- and whoever may connect may ask.
create function plenum_schema_minimum() returns bigint
    language sql immutable parallel safe
    return 0;
