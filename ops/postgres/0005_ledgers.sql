-- What the models said, what it would have earned in shadow, and what was ordered. Nothing here is ever changed
-- by a repeat: the first writer of a key wins.
CREATE TABLE signals (
    market_id       text             NOT NULL,
    symbol          text             NOT NULL,
    as_of           timestamptz      NOT NULL, -- the close of the newest bar that the signal rests on
    model_version   text             NOT NULL,
    view_version    text             NOT NULL,
    source          text             NOT NULL,
    probability_up  double precision NOT NULL CHECK (probability_up BETWEEN 0 AND 1),
    target_position double precision NOT NULL,
    expected_return double precision, -- NULL: the model gives none
    trace_id        text,
    written_at      timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, symbol, as_of, model_version),
    -- NaN is greater than every number here, so the upper limits refuse it too.
    CONSTRAINT signals_are_finite CHECK (
        expected_return > '-infinity' AND expected_return < 'infinity'
        AND target_position > '-infinity' AND target_position < 'infinity'
    )
);

CREATE TABLE shadow_fills (
    market_id     text             NOT NULL,
    symbol        text             NOT NULL,
    ts            timestamptz      NOT NULL, -- the opening of the bar at whose price the order filled
    model_version text             NOT NULL,
    units         double precision NOT NULL, -- traded: above 0 bought, below 0 sold, in base currency
    price         double precision NOT NULL, -- with slippage, in quote currency
    fee           double precision NOT NULL,
    slippage      double precision NOT NULL,
    funding       double precision NOT NULL, -- paid; below 0 received
    equity        double precision NOT NULL, -- of the model's account after the bar
    written_at    timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, symbol, ts, model_version),
    CONSTRAINT shadow_fills_are_finite CHECK (
        units > '-infinity' AND units < 'infinity'
        AND price > 0 AND price < 'infinity'
        AND fee >= 0 AND fee < 'infinity'
        AND slippage >= 0 AND slippage < 'infinity'
        AND funding > '-infinity' AND funding < 'infinity'
        AND equity > '-infinity' AND equity < 'infinity'
    )
);

CREATE TABLE orders (
    market_id   text             NOT NULL,
    order_id    text             NOT NULL CHECK (order_id <> ''), -- ours; the key that makes a repeat one order
    symbol      text             NOT NULL,
    at          timestamptz      NOT NULL,
    side        text             NOT NULL CHECK (side IN ('buy', 'sell')),
    units       double precision NOT NULL CHECK (units > 0 AND units < 'infinity'),
    limit_price double precision CHECK (limit_price > 0 AND limit_price < 'infinity'), -- NULL: at the market
    source      text             NOT NULL, -- who asked for it: a model's version, a webhook
    trace_id    text,
    written_at  timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, order_id)
);
CREATE INDEX orders_by_time ON orders (market_id, symbol, at);
