-- Takes 0010_canaries.sql back. What canaries did is lost, and one that was rolled back may begin again. Their accounts
-- stay among the shadow accounts, under a market of their own.
DROP TABLE shadow_equity;
DROP TABLE canary_bars;
DROP TABLE canaries;
DELETE FROM schema_migrations WHERE name = '0010_canaries.sql';
