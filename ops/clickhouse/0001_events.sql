-- Everything that happens. One row an append: a repeated append of one event leaves two rows of one event_id, and
-- readers show it once.
--
-- ts is the market's time, which in a replay lies years back. So the days of the partitions and the end of a row's
-- life are counted from its arrival.
CREATE TABLE IF NOT EXISTS events
(
    event_type LowCardinality(String),
    symbol     LowCardinality(String),          -- empty: of no single symbol
    ts         DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
    event_id   String,
    trace_id   String,
    payload    String CODEC(ZSTD),              -- JSON
    arrived_at DateTime('UTC') DEFAULT now(),
    INDEX ts_range ts TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(arrived_at)
ORDER BY (event_type, symbol, ts)
TTL arrived_at + INTERVAL 30 DAY
-- An acknowledged row survives a power cut, not only a killed process.
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1, fsync_part_directory = 1;
