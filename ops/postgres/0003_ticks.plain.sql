-- Trades, and their bars of 1 s and 5 s under the names and columns that TimescaleDB's aggregates have.
CREATE TABLE ticks (
    market_id      text             NOT NULL,
    symbol         text             NOT NULL,
    ts             timestamptz      NOT NULL,
    price          double precision NOT NULL,
    size           double precision NOT NULL,
    trade_id       bigint           NOT NULL,
    is_buyer_maker boolean          NOT NULL,
    -- The key of a partition must hold ts. That a trade is there once whatever its ts is up to the writers,
    -- which take a lock for it: `tick_write_begins`.
    PRIMARY KEY (market_id, symbol, trade_id, ts),
    -- Products and sums of values inside these limits are still numbers.
    CONSTRAINT ticks_are_in_their_limits CHECK (
        price BETWEEN 1e-15 AND 1e15 AND size BETWEEN 1e-15 AND 1e15 AND trade_id > 0
    )
) PARTITION BY RANGE (ts);
CREATE INDEX ticks_by_time ON ticks (market_id, symbol, ts);

-- What the roll-up has still to do: ranges whose bars changed since. Written with the ticks themselves, in
-- one transaction.
CREATE TABLE tick_marks (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market_id text        NOT NULL,
    symbol    text        NOT NULL,
    lower_ts  timestamptz NOT NULL, -- a whole second
    upper_ts  timestamptz NOT NULL, -- a whole second, not part of the range
    n_ticks   bigint      NOT NULL,
    CHECK (lower_ts < upper_ts)
);

CREATE TABLE tick_m1s_rows (
    market_id text             NOT NULL,
    symbol    text             NOT NULL,
    ts        timestamptz      NOT NULL,
    open      double precision NOT NULL,
    high      double precision NOT NULL,
    low       double precision NOT NULL,
    close     double precision NOT NULL,
    volume    double precision NOT NULL,
    vwap      double precision NOT NULL,
    n_ticks   bigint           NOT NULL,
    notional  double precision NOT NULL,
    PRIMARY KEY (market_id, symbol, ts)
) PARTITION BY RANGE (ts);
CREATE TABLE tick_m5s_rows (LIKE tick_m1s_rows, PRIMARY KEY (market_id, symbol, ts)) PARTITION BY RANGE (ts);

-- For questions about all symbols at once, such as how fresh the bars are.
CREATE INDEX tick_m1s_by_time ON tick_m1s_rows (ts);
CREATE INDEX tick_m5s_by_time ON tick_m5s_rows (ts);

INSERT INTO time_tables VALUES
    ('ticks', '1 day', '30 days', 2),
    ('tick_m1s_rows', '7 days', '90 days', 1),
    ('tick_m5s_rows', '28 days', '2 years', 1);

-- The bars of a range, from its ticks. The one formula, of the roll-up and of the views.
CREATE FUNCTION tick_bars(
    every interval, of_market text, of_symbol text, from_ts timestamptz, to_ts timestamptz
) RETURNS TABLE (
    ts timestamptz, open float8, high float8, low float8, close float8,
    volume float8, vwap float8, n_ticks bigint, notional float8
)
LANGUAGE sql STABLE AS $$
    SELECT
        date_bin(every, t.ts, 'epoch'),
        (array_agg(t.price ORDER BY t.ts, t.trade_id))[1],
        max(t.price),
        min(t.price),
        (array_agg(t.price ORDER BY t.ts, t.trade_id))[count(*)],
        sum(t.size),
        sum(t.price * t.size) / sum(t.size),
        count(*),
        sum(t.price * t.size)
    FROM ticks t
    WHERE t.market_id = of_market AND t.symbol = of_symbol AND t.ts >= from_ts AND t.ts < to_ts
    GROUP BY 1
$$;

-- What was rolled up and has not changed since, and the rest from the ticks: exact at every moment.
CREATE VIEW tick_m1s AS
WITH marked AS (
    SELECT market_id, symbol, range_agg(tstzrange(lower_ts, upper_ts)) AS spans
    FROM tick_marks GROUP BY market_id, symbol
)
SELECT r.market_id, r.symbol, r.ts, r.open, r.high, r.low, r.close, r.volume, r.vwap, r.n_ticks, r.notional
FROM tick_m1s_rows r LEFT JOIN marked m ON m.market_id = r.market_id AND m.symbol = r.symbol
WHERE m.spans IS NULL OR NOT r.ts <@ m.spans
UNION ALL
SELECT s.market_id, s.symbol, b.*
FROM (SELECT market_id, symbol, unnest(spans) AS span FROM marked) s,
    LATERAL tick_bars('1 second', s.market_id, s.symbol, lower(s.span), upper(s.span)) b;

-- The rest from the ticks here too: it is a few seconds, and no bar of 1 s in it need be stored yet.
CREATE VIEW tick_m5s AS
WITH marked AS (
    SELECT market_id, symbol, range_agg(tstzrange(
        date_bin('5 seconds', lower_ts, 'epoch'),
        date_bin('5 seconds', upper_ts + interval '4 seconds', 'epoch')
    )) AS spans
    FROM tick_marks GROUP BY market_id, symbol
)
SELECT r.market_id, r.symbol, r.ts, r.open, r.high, r.low, r.close, r.volume, r.vwap, r.n_ticks, r.notional
FROM tick_m5s_rows r LEFT JOIN marked m ON m.market_id = r.market_id AND m.symbol = r.symbol
WHERE m.spans IS NULL OR NOT r.ts <@ m.spans
UNION ALL
SELECT s.market_id, s.symbol, b.*
FROM (SELECT market_id, symbol, unnest(spans) AS span FROM marked) s,
    LATERAL tick_bars('5 seconds', s.market_id, s.symbol, lower(s.span), upper(s.span)) b;

-- Makes room for the trades of these hours, in a transaction of its own. Refuses trades of a partition that
-- retention has dropped: their bars could not be computed again.
CREATE FUNCTION tick_write_prepares(hours timestamptz[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    gone timestamptz;
BEGIN
    SELECT min(h) INTO gone FROM unnest(hours) h WHERE EXISTS (
        SELECT FROM time_partitions p
        WHERE p.table_name = 'ticks' AND p.lower_ts <= h AND h < p.upper_ts AND p.dropped_at IS NOT NULL
    );
    IF gone IS NOT NULL THEN
        RAISE EXCEPTION 'the ticks of % and around are older than ticks are kept, and were dropped', gone
            USING ERRCODE = 'check_violation';
    END IF;
    PERFORM make_time_partitions('ticks', hours);
END
$$;

-- Opens a write of trades, inside its transaction: from here to its end no other session writes trades of these
-- symbols, and no partition is dropped. An error (55000) where a partition is missing. Returns the symbols that may have some of the trades already. A lock that it
-- does not get within `wait_ms` is an error.
CREATE FUNCTION tick_write_begins(
    of_market text, symbols text[], first_ids bigint[], last_ids bigint[], hours timestamptz[], wait_ms integer
) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    missing timestamptz;
BEGIN
    -- Under the locks, each statement must see what the last holder committed.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'trades are written in transactions that are read committed, not %',
            current_setting('transaction_isolation');
    END IF;
    PERFORM set_config('lock_timeout', wait_ms || 'ms', true);
    -- A writer that is frozen in the middle must not hold its locks for ever.
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    PERFORM pg_advisory_xact_lock_shared(x'6C65766C'::int);
    -- In one order for all, so that two writers cannot lock each other out.
    PERFORM pg_advisory_xact_lock(k) FROM (
        SELECT DISTINCT hashtextextended(of_market || '/' || s, 0) AS k FROM unnest(symbols) s ORDER BY k
    ) keys;
    SELECT min(h) INTO missing FROM unnest(hours) h WHERE NOT EXISTS (
        SELECT FROM time_partitions p
        WHERE p.table_name = 'ticks' AND p.lower_ts <= h AND h < p.upper_ts AND p.dropped_at IS NULL
    );
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the ticks of % have no partition', missing
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN QUERY
    SELECT w.symbol FROM unnest(symbols, first_ids, last_ids) AS w (symbol, first_id, last_id),
        LATERAL (
            SELECT FROM ticks t
            WHERE t.market_id = of_market AND t.symbol = w.symbol
                AND t.trade_id BETWEEN w.first_id AND w.last_id
            ORDER BY t.trade_id LIMIT 1
        ) known;
END
$$;

-- Ends a write of trades: notes which ranges changed.
CREATE FUNCTION tick_write_ends(
    of_market text, symbols text[], lowers timestamptz[], uppers timestamptz[], counts bigint[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tick_marks (market_id, symbol, lower_ts, upper_ts, n_ticks)
    SELECT of_market, w.* FROM unnest(symbols, lowers, uppers, counts) AS w
$$;

-- Makes room for the bars of the oldest marks, in a transaction of its own.
CREATE FUNCTION tick_roll_up_prepares() RETURNS void LANGUAGE sql AS $$
    SELECT make_time_partitions(name, hours) FROM (
        SELECT array_agg(DISTINCT h) AS hours
        FROM (SELECT lower_ts, upper_ts FROM tick_marks ORDER BY id LIMIT 5000) oldest,
            generate_series(date_bin('1 hour', lower_ts, 'epoch'), upper_ts - interval '1 us', interval '1 hour') h
    ) touched, unnest(ARRAY['tick_m1s_rows', 'tick_m5s_rows']) name
    WHERE hours IS NOT NULL
$$;

-- Computes the bars of marked ranges again, oldest marks first, until these hold `max_ticks` new trades. An error
-- (55000) where a partition is missing. Returns how many marks it did; 0 when there are none, or another session is at it.
CREATE FUNCTION tick_roll_up(max_ticks bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    markets text[];
    symbols text[];
    lowers timestamptz[];
    uppers timestamptz[];
    n_done integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(x'6C65766D'::int) THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(x'6C65766C'::int);
    -- The ticks of these marks were committed with them, so the statements below see them all. What is
    -- committed from here on has a mark of its own.
    WITH due AS (
        SELECT id, sum(n_ticks) OVER (ORDER BY id) - n_ticks AS n_before FROM tick_marks
        ORDER BY id LIMIT 5000
    ), taken AS (
        DELETE FROM tick_marks m USING due WHERE m.id = due.id AND due.n_before < max_ticks RETURNING m.*
    ), merged AS (
        SELECT market_id, symbol, unnest(range_agg(tstzrange(lower_ts, upper_ts))) AS span
        FROM taken GROUP BY market_id, symbol
    )
    SELECT array_agg(market_id), array_agg(symbol), array_agg(lower(span)), array_agg(upper(span)),
        (SELECT count(*) FROM taken)
    INTO markets, symbols, lowers, uppers, n_done FROM merged;
    IF n_done = 0 THEN
        RETURN 0;
    END IF;
    IF EXISTS (
        SELECT FROM unnest(lowers, uppers) AS w (l, u),
            unnest(ARRAY['tick_m1s_rows', 'tick_m5s_rows']) name,
            generate_series(date_bin('1 hour', l, 'epoch'), u - interval '1 us', interval '1 hour') h
        WHERE NOT EXISTS (
            SELECT FROM time_partitions p
            WHERE p.table_name = name AND p.lower_ts <= h AND h < p.upper_ts AND p.dropped_at IS NULL
        )
    ) THEN
        RAISE EXCEPTION 'a partition of bars is missing' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    INSERT INTO tick_m1s_rows
    SELECT w.m, w.s, b.* FROM unnest(markets, symbols, lowers, uppers) AS w (m, s, l, u),
        LATERAL tick_bars('1 second', w.m, w.s, w.l, w.u) b
    -- Ticks only ever come to be more, so a bar with as many as before is as before.
    ON CONFLICT (market_id, symbol, ts) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, vwap = excluded.vwap, n_ticks = excluded.n_ticks,
        notional = excluded.notional
    WHERE tick_m1s_rows.n_ticks <> excluded.n_ticks;

    INSERT INTO tick_m5s_rows
    SELECT w.m, w.s, b.* FROM (
        SELECT m, s, unnest(range_agg(tstzrange(
            date_bin('5 seconds', l, 'epoch'), date_bin('5 seconds', u + interval '4 seconds', 'epoch')
        ))) AS span FROM unnest(markets, symbols, lowers, uppers) AS w (m, s, l, u) GROUP BY m, s
    ) w, LATERAL (
        SELECT date_bin('5 seconds', r.ts, 'epoch'),
            (array_agg(r.open ORDER BY r.ts))[1], max(r.high), min(r.low),
            (array_agg(r.close ORDER BY r.ts))[count(*)],
            sum(r.volume), sum(r.notional) / sum(r.volume), sum(r.n_ticks), sum(r.notional)
        FROM tick_m1s_rows r
        WHERE r.market_id = w.m AND r.symbol = w.s AND r.ts >= lower(w.span) AND r.ts < upper(w.span)
        GROUP BY 1
    ) b
    ON CONFLICT (market_id, symbol, ts) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume, vwap = excluded.vwap, n_ticks = excluded.n_ticks,
        notional = excluded.notional
    WHERE tick_m5s_rows.n_ticks <> excluded.n_ticks;
    RETURN n_done;
END
$$;

-- Drops one partition that is too old at `as_of`; false when it is gone already, or its ticks are not rolled up.
CREATE FUNCTION drop_time_partition(of_partition text, as_of timestamptz) RETURNS boolean LANGUAGE plpgsql
-- Readers queue up behind this lock, so it does not wait long for its own turn.
SET lock_timeout = '1s' AS $$
DECLARE
    part time_partitions;
BEGIN
    -- Alone: no writer of ticks and no roll-up from here on.
    PERFORM pg_advisory_xact_lock(x'6C65766C'::int);
    SELECT p.* INTO part FROM time_partitions p JOIN time_tables t USING (table_name)
    WHERE p.partition_name = of_partition AND p.dropped_at IS NULL AND p.upper_ts <= as_of - t.keep_for;
    IF NOT FOUND OR (part.table_name = 'ticks' AND EXISTS (
        SELECT FROM tick_marks m WHERE m.lower_ts < part.upper_ts AND m.upper_ts > part.lower_ts
    )) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', of_partition);
    UPDATE time_partitions SET dropped_at = now() WHERE partition_name = of_partition;
    RETURN true;
END
$$;
