-- Takes 0001_bars.sql back. Every stored bar is lost; `python -m levibot ingest` loads them again.
DROP TABLE bars;
DELETE FROM schema_migrations WHERE name = '0001_bars.sql';
