-- Takes 0004_quarantine.sql back.
-- The refused rows are lost.
DROP TABLE quarantine;
DELETE FROM schema_migrations WHERE name = '0004_quarantine.sql';
