-- The events once more, in the order in which a filtered list reads them: a list a type, a symbol, and a type and symbol.
-- A type or a symbol that is rare lies scattered over the granules of `events`, and here in a row.
--
-- '' in listed_type or listed_symbol: any. A week to a partition, since a list of what is rare touches each of them; a
-- week goes as a whole once its last row is 30 days old. The view writes within the insert that is acknowledged.
CREATE TABLE IF NOT EXISTS events_listed
(
    listed_type   LowCardinality(String),
    listed_symbol LowCardinality(String),
    event_type    LowCardinality(String),
    symbol        LowCardinality(String),
    ts            DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    event_id      String,
    trace_id      String,
    payload       String CODEC(ZSTD),           -- JSON
    arrived_at    DateTime('UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(arrived_at)
ORDER BY (listed_type, listed_symbol, ts, event_id)
TTL arrived_at + INTERVAL 30 DAY
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_listed TO events_listed AS
SELECT
    listed.1 AS listed_type,
    listed.2 AS listed_symbol,
    event_type, symbol, ts, event_id, trace_id, payload, arrived_at
FROM events
ARRAY JOIN if(
    symbol = '',
    [(toString(event_type), '')],
    [(toString(event_type), ''), ('', toString(symbol)), (toString(event_type), toString(symbol))]
) AS listed;

-- The events that were there before the view. Those that came in between are there twice, and are shown once.
INSERT INTO events_listed (
    listed_type, listed_symbol, event_type, symbol, ts, event_id, trace_id, payload, arrived_at
)
SELECT
    listed.1 AS listed_type,
    listed.2 AS listed_symbol,
    event_type, symbol, ts, event_id, trace_id, payload, arrived_at
FROM events
ARRAY JOIN if(
    symbol = '',
    [(toString(event_type), '')],
    [(toString(event_type), ''), ('', toString(symbol)), (toString(event_type), toString(symbol))]
) AS listed;

-- What they were for is read from the lists.
ALTER TABLE events DROP INDEX IF EXISTS of_type;

ALTER TABLE events DROP INDEX IF EXISTS of_symbol;
