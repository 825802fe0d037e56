-- Finished bars of every market. A bar's `ts` is its opening instant; it is known at ts + interval_s.
-- Plain PostgreSQL. TimescaleDB can make it a hypertable on `ts`, which is why `ts` is part of the key.
CREATE TABLE bars (
    market_id  text             NOT NULL,
    symbol     text             NOT NULL,
    interval_s integer          NOT NULL CHECK (interval_s > 0),
    ts         timestamptz      NOT NULL,
    open       double precision NOT NULL,
    high       double precision NOT NULL,
    low        double precision NOT NULL,
    close      double precision NOT NULL,
    volume     double precision NOT NULL,
    PRIMARY KEY (market_id, symbol, interval_s, ts),
    -- NaN is greater than every number here, so the upper limits refuse it too.
    CONSTRAINT bars_are_finite CHECK (
        open > 0 AND open < 'infinity'
        AND close > 0 AND close < 'infinity'
        AND low > 0 AND low <= high AND high < 'infinity'
        AND volume >= 0 AND volume < 'infinity'
    )
);
