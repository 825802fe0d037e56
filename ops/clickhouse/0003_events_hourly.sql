-- How many events an hour of the market, by type and symbol: what a dashboard asks again and again.
--
-- The state is the set of event ids and not a sum, so an event that is appended twice counts once, also when its
-- repeat arrives on another day. Rows end with the events that they count.
CREATE TABLE IF NOT EXISTS events_hourly
(
    arrived_on Date,
    hour       DateTime64(0, 'UTC'),
    event_type LowCardinality(String),
    symbol     LowCardinality(String),
    ids        AggregateFunction(uniqExact, String)
)
ENGINE = AggregatingMergeTree
PARTITION BY arrived_on
ORDER BY (hour, event_type, symbol)
TTL arrived_on + INTERVAL 31 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS events_to_hourly TO events_hourly AS
SELECT
    toDate(arrived_at) AS arrived_on,
    fromUnixTimestamp64Second(intDiv(toUnixTimestamp64Micro(ts), 3600000000) * 3600, 'UTC') AS hour,
    event_type,
    symbol,
    uniqExactState(event_id) AS ids
FROM events
GROUP BY arrived_on, hour, event_type, symbol;

-- The events that were there before the view. Those that came in between are in both, and count once.
INSERT INTO events_hourly
SELECT
    toDate(arrived_at) AS arrived_on,
    fromUnixTimestamp64Second(intDiv(toUnixTimestamp64Micro(ts), 3600000000) * 3600, 'UTC') AS hour,
    event_type,
    symbol,
    uniqExactState(event_id) AS ids
FROM events
GROUP BY arrived_on, hour, event_type, symbol;
