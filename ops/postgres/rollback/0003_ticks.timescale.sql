-- Takes 0003_ticks.timescale.sql back.
-- The trades and their bars are lost, and with them the policies.
DROP FUNCTION tick_write_ends(text, text[], timestamptz[], timestamptz[], bigint[]);
DROP FUNCTION tick_write_begins(text, text[], bigint[], bigint[], timestamptz[], integer);
DROP FUNCTION tick_write_prepares(timestamptz[]);
DROP MATERIALIZED VIEW tick_m5s;
DROP MATERIALIZED VIEW tick_m1s;
DROP TABLE tick_marks;
DROP TABLE ticks;
DELETE FROM schema_migrations WHERE name = '0003_ticks.timescale.sql';
