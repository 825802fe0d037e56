-- Takes 0003_ticks.plain.sql back.
-- The trades and their bars are lost.
DROP FUNCTION drop_time_partition(text, timestamptz);
DROP FUNCTION tick_roll_up(bigint);
DROP FUNCTION tick_roll_up_prepares();
DROP FUNCTION tick_write_ends(text, text[], timestamptz[], timestamptz[], bigint[]);
DROP FUNCTION tick_write_begins(text, text[], bigint[], bigint[], timestamptz[], integer);
DROP FUNCTION tick_write_prepares(timestamptz[]);
DROP VIEW tick_m5s;
DROP VIEW tick_m1s;
DROP FUNCTION tick_bars(interval, text, text, timestamptz, timestamptz);
DROP TABLE tick_m5s_rows;
DROP TABLE tick_m1s_rows;
DROP TABLE tick_marks;
DROP TABLE ticks;
DELETE FROM time_partitions WHERE table_name IN ('ticks', 'tick_m1s_rows', 'tick_m5s_rows');
DELETE FROM time_tables WHERE table_name IN ('ticks', 'tick_m1s_rows', 'tick_m5s_rows');
DELETE FROM schema_migrations WHERE name = '0003_ticks.plain.sql';
