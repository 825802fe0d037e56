-- Takes 0005_ledgers.sql back. The signals, shadow fills and orders are lost.
DROP TABLE orders;
DROP TABLE shadow_fills;
DROP TABLE signals;
DELETE FROM schema_migrations WHERE name = '0005_ledgers.sql';
