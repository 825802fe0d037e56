-- What was said outside the exchange's bars and trades: funding, DEX quotes, floors, ratings. In two times:
-- when it is true, and from when on it was known here. Nothing is ever changed: a correction is a row that is
-- known later.
CREATE TABLE observations (
    market_id    text             NOT NULL,
    source       text             NOT NULL,
    symbol       text             NOT NULL, -- '' where it is said of the whole market
    name         text             NOT NULL,
    event_ts     timestamptz      NOT NULL,
    available_ts timestamptz      NOT NULL,
    value        double precision, -- NULL: nothing is known any more
    written_at   timestamptz      NOT NULL DEFAULT now(),
    -- In the order of the reads: a series of a symbol over time.
    PRIMARY KEY (market_id, name, symbol, event_ts, available_ts, source),
    CONSTRAINT observations_are_finite CHECK (value > '-infinity' AND value < 'infinity'),
    CONSTRAINT observations_come_after_their_event CHECK (available_ts >= event_ts)
);
