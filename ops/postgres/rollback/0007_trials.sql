-- Takes 0007_trials.sql back. The ledger of trials is lost here; each journal (trials.sqlite) keeps what it knows, and
-- sends it again to the next one.
DROP TABLE trials;
DROP TABLE trial_ledger;
DROP FUNCTION refuse_to_change_trials();
DELETE FROM schema_migrations WHERE name = '0007_trials.sql';
