-- Trades, and their bars of 1 s and 5 s as continuous aggregates: for TimescaleDB 2.18 and later.
CREATE TABLE ticks (
    market_id      text             NOT NULL,
    symbol         text             NOT NULL,
    ts             timestamptz      NOT NULL,
    price          double precision NOT NULL,
    size           double precision NOT NULL,
    trade_id       bigint           NOT NULL,
    is_buyer_maker boolean          NOT NULL,
    -- The key of a hypertable must hold ts. That a trade is there once whatever its ts is up to the writers,
    -- which take a lock for it: `tick_write_begins`.
    PRIMARY KEY (market_id, symbol, trade_id, ts),
    -- Products and sums of values inside these limits are still numbers.
    CONSTRAINT ticks_are_in_their_limits CHECK (
        price BETWEEN 1e-15 AND 1e15 AND size BETWEEN 1e-15 AND 1e15 AND trade_id > 0
    )
);
SELECT create_hypertable('ticks', by_range('ts', INTERVAL '1 day'), create_default_indexes => false);
CREATE INDEX ticks_by_time ON ticks (market_id, symbol, ts);

-- Ordered by both, so that the smallest and largest trade_id of each compressed batch are on record and a look
-- for a known trade reads few of them.
ALTER TABLE ticks SET (
    timescaledb.enable_columnstore = true,
    timescaledb.segmentby = 'market_id, symbol',
    timescaledb.orderby = 'ts, trade_id'
);
CALL add_columnstore_policy('ticks', after => INTERVAL '2 days');
SELECT add_retention_policy('ticks', drop_after => INTERVAL '30 days');

-- Ranges of trades that came too late for the policies below, and that the maintenance refreshes.
CREATE TABLE tick_marks (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market_id text        NOT NULL,
    symbol    text        NOT NULL,
    lower_ts  timestamptz NOT NULL, -- a whole second
    upper_ts  timestamptz NOT NULL, -- a whole second, not part of the range
    n_ticks   bigint      NOT NULL,
    CHECK (lower_ts < upper_ts)
);

CREATE MATERIALIZED VIEW tick_m1s
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT
    market_id,
    symbol,
    time_bucket(INTERVAL '1 second', ts) AS ts,
    -- Not first() and last(): trades of one instant are told apart by their ids.
    (array_agg(price ORDER BY ts, trade_id))[1] AS open,
    max(price) AS high,
    min(price) AS low,
    (array_agg(price ORDER BY ts DESC, trade_id DESC))[1] AS close,
    sum(size) AS volume,
    sum(price * size) / sum(size) AS vwap,
    count(*) AS n_ticks,
    sum(price * size) AS notional
FROM ticks
GROUP BY market_id, symbol, time_bucket(INTERVAL '1 second', ts)
WITH NO DATA;
CREATE INDEX tick_m1s_by_symbol ON tick_m1s (market_id, symbol, ts);

CREATE MATERIALIZED VIEW tick_m5s
WITH (timescaledb.continuous, timescaledb.materialized_only = false, timescaledb.create_group_indexes = false) AS
SELECT
    market_id,
    symbol,
    time_bucket(INTERVAL '5 seconds', ts) AS ts,
    first(open, ts) AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, ts) AS close,
    sum(volume) AS volume,
    sum(notional) / sum(volume) AS vwap,
    sum(n_ticks)::bigint AS n_ticks,
    sum(notional) AS notional
FROM tick_m1s
GROUP BY market_id, symbol, time_bucket(INTERVAL '5 seconds', ts)
WITH NO DATA;
CREATE INDEX tick_m5s_by_symbol ON tick_m5s (market_id, symbol, ts);

SELECT add_continuous_aggregate_policy('tick_m1s',
    start_offset => INTERVAL '1 hour', end_offset => INTERVAL '1 second', schedule_interval => INTERVAL '1 second');
SELECT add_continuous_aggregate_policy('tick_m5s',
    start_offset => INTERVAL '1 hour', end_offset => INTERVAL '5 seconds', schedule_interval => INTERVAL '5 seconds');

ALTER MATERIALIZED VIEW tick_m1s SET (timescaledb.enable_columnstore = true);
ALTER MATERIALIZED VIEW tick_m5s SET (timescaledb.enable_columnstore = true);
CALL add_columnstore_policy('tick_m1s', after => INTERVAL '7 days');
CALL add_columnstore_policy('tick_m5s', after => INTERVAL '28 days');
SELECT add_retention_policy('tick_m1s', drop_after => INTERVAL '90 days');
SELECT add_retention_policy('tick_m5s', drop_after => INTERVAL '2 years');

-- Refuses trades that retention drops within a day: a bar that is refreshed after its trades are gone would go with
-- them. Chunks are made by themselves.
CREATE FUNCTION tick_write_prepares(hours timestamptz[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone timestamptz;
BEGIN
    SELECT min(h) INTO gone FROM unnest(hours) h WHERE h < now() - INTERVAL '29 days';
    IF gone IS NOT NULL THEN
        RAISE EXCEPTION 'the ticks of % and around are older than ticks are kept', gone
            USING ERRCODE = 'check_violation';
    END IF;
END
$$;

-- Opens a write of trades, inside its transaction: from here to its end no other session writes trades of these
-- symbols. Returns the symbols that may have some of the trades already. A lock that it does not get
-- within `wait_ms` is an error.
CREATE FUNCTION tick_write_begins(
    of_market text, symbols text[], first_ids bigint[], last_ids bigint[], hours timestamptz[], wait_ms integer
) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    -- Under the locks, each statement must see what the last holder committed.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'trades are written in transactions that are read committed, not %',
            current_setting('transaction_isolation');
    END IF;
    PERFORM set_config('lock_timeout', wait_ms || 'ms', true);
    -- A writer that is frozen in the middle must not hold its locks for ever.
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    -- In one order for all, so that two writers cannot lock each other out.
    PERFORM pg_advisory_xact_lock(k) FROM (
        SELECT DISTINCT hashtextextended(of_market || '/' || s, 0) AS k FROM unnest(symbols) s ORDER BY k
    ) keys;
    RETURN QUERY
    SELECT w.symbol FROM unnest(symbols, first_ids, last_ids) AS w (symbol, first_id, last_id),
        LATERAL (
            SELECT t.trade_id FROM ticks t
            WHERE t.market_id = of_market AND t.symbol = w.symbol
                AND t.trade_id BETWEEN w.first_id AND w.last_id
            ORDER BY t.trade_id LIMIT 1
        ) known;
END
$$;

-- Ends a write of trades: notes which ranges the policies may not look back to, if they are late by a while.
CREATE FUNCTION tick_write_ends(
    of_market text, symbols text[], lowers timestamptz[], uppers timestamptz[], counts bigint[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tick_marks (market_id, symbol, lower_ts, upper_ts, n_ticks)
    SELECT of_market, w.* FROM unnest(symbols, lowers, uppers, counts) AS w (s, l, u, n)
    WHERE l < now() - INTERVAL '10 minutes'
$$;
