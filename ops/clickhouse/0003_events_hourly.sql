-- How many events an hour of the market has, by type and symbol: what a dashboard asks again and again, and what
-- tells a read of the newest events how far back it must look.
--
-- ids is the set of event ids and not a sum, so an event that is appended twice counts once, also when its repeat
-- arrives on another day. n_rows counts the repeats: an estimate that costs nothing. Rows end with their events.
CREATE TABLE IF NOT EXISTS events_hourly
(
    arrived_on Date,
    hour       DateTime64(0, 'UTC'),
    event_type LowCardinality(String),
    symbol     LowCardinality(String),
    n_rows     SimpleAggregateFunction(sum, UInt64),
    ids        AggregateFunction(uniqExact, String)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(arrived_on)
ORDER BY (hour, event_type, symbol, arrived_on)
TTL arrived_on + INTERVAL 31 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_hourly TO events_hourly AS
SELECT
    toDate(arrived_at) AS arrived_on,
    fromUnixTimestamp64Second(intDiv(toUnixTimestamp64Micro(ts), 3600000000) * 3600, 'UTC') AS hour,
    event_type,
    symbol,
    count() AS n_rows,
    uniqExactState(event_id) AS ids
FROM events
GROUP BY arrived_on, hour, event_type, symbol;

-- The events that were there before the view. Those that came in between are in both, and count once.
INSERT INTO events_hourly (arrived_on, hour, event_type, symbol, n_rows, ids)
SELECT
    toDate(arrived_at) AS arrived_on,
    fromUnixTimestamp64Second(intDiv(toUnixTimestamp64Micro(ts), 3600000000) * 3600, 'UTC') AS hour,
    event_type,
    symbol,
    count() AS n_rows,
    uniqExactState(event_id) AS ids
FROM events
GROUP BY arrived_on, hour, event_type, symbol;
