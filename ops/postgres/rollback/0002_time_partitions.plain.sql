DROP FUNCTION make_time_partitions(text, timestamptz[]);
DROP TABLE time_partitions;
DROP TABLE time_tables;
