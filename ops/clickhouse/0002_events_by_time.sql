-- The events in the order in which they are read: newest first, whatever the filter. Chosen by the rows that ten
-- queries read (docs/operations/clickhouse.md).
--
-- A sorting key cannot be altered, so the rows move to a new table. Every statement may run again from the top after
-- an interruption: what events_next holds then is a copy, or the old table whose rows have been copied already.
DROP TABLE IF EXISTS events_next SYNC;

CREATE TABLE events_next
(
    event_type LowCardinality(String),
    symbol     LowCardinality(String),          -- empty: of no single symbol
    ts         DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    event_id   String,
    trace_id   String,
    payload    String CODEC(ZSTD),              -- JSON
    arrived_at DateTime('UTC') DEFAULT now(),
    INDEX of_type event_type TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX of_symbol symbol TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX of_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1
)
-- Repeats of one event lie side by side, so merges remove them. Readers do not rely on it.
ENGINE = ReplacingMergeTree
PARTITION BY toDate(arrived_at)
ORDER BY (ts, event_id)
-- The day is dropped as a whole once its last row is 30 days old.
TTL arrived_at + INTERVAL 30 DAY
-- An acknowledged row survives a power cut, not only a killed process.
SETTINGS index_granularity = 1024, ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1;

INSERT INTO events_next (event_type, symbol, ts, event_id, trace_id, payload, arrived_at)
SELECT event_type, symbol, ts, event_id, trace_id, payload, arrived_at FROM events;

EXCHANGE TABLES events AND events_next;

DROP TABLE IF EXISTS events_next SYNC;
