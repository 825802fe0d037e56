-- Takes 0002_time_partitions.plain.sql back.
DROP FUNCTION make_time_partitions(text, timestamptz[]);
DROP TABLE time_partitions;
DROP TABLE time_tables;
DELETE FROM schema_migrations WHERE name = '0002_time_partitions.plain.sql';
