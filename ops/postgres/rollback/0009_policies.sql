-- Takes 0009_policies.sql back. What policies decided is lost, and their accounts with it.
DROP TABLE policy_decisions;
DELETE FROM schema_migrations WHERE name = '0009_policies.sql';
