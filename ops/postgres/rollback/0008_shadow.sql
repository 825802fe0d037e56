-- Takes 0008_shadow.sql back. The shadow accounts, their fills and the history of the weights are lost.
DROP TABLE ensemble_weights;
DROP TABLE shadow_days;
DROP TABLE shadow_accounts;
DROP TABLE shadow_decisions;
DROP TABLE shadow_progress;
-- Fills of several accounts of one version would not fit the key of before.
DELETE FROM shadow_fills;
ALTER TABLE shadow_fills DROP CONSTRAINT shadow_fills_pkey, DROP COLUMN account;
ALTER TABLE shadow_fills ADD PRIMARY KEY (market_id, symbol, ts, model_version);
DELETE FROM schema_migrations WHERE name = '0008_shadow.sql';
