-- Accounts that trade on paper what each member of the ensemble says, and each way of weighing them; and the weights
-- that follow from what they earn. Everything an account is can be made again from its decisions and the bars.

-- Since a model has many accounts, a fill is of an account; which version decided is said beside it.
ALTER TABLE shadow_fills ADD COLUMN account text;
UPDATE shadow_fills SET account = model_version;
ALTER TABLE shadow_fills
    ALTER COLUMN account SET NOT NULL,
    DROP CONSTRAINT shadow_fills_pkey,
    ADD PRIMARY KEY (market_id, symbol, ts, account);

-- How far the accounts are. Writers of decisions share this row, whoever prices a bar has it alone: a decision is
-- there before its bar is priced, or it says that it came too late.
CREATE TABLE shadow_progress (
    market_id text        PRIMARY KEY,
    priced_to timestamptz NOT NULL -- the close of the newest priced bar; -infinity: none yet
);

CREATE TABLE shadow_decisions (
    market_id     text               NOT NULL,
    as_of         timestamptz        NOT NULL, -- the close at which it was taken; it fills at the next bar's open
    symbol        text               NOT NULL,
    model_version text               NOT NULL,
    view_version  text               NOT NULL,
    no_trade_band double precision   NOT NULL CHECK (no_trade_band >= 0 AND no_trade_band < 'infinity'),
    accounts      text[]             NOT NULL, -- each member alone, and each way of weighing them
    positions     double precision[] NOT NULL, -- of each account: the fraction of its equity that it wants
    blend         jsonb              NOT NULL, -- opinions, weights, regime and route, as the signal carries them
    is_in_time    boolean            NOT NULL, -- false: the next bar had been priced already
    written_at    timestamptz        NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, as_of, symbol), -- the first version that decided a close has decided it
    CONSTRAINT shadow_decisions_are_whole CHECK (
        cardinality(accounts) > 0 AND cardinality(accounts) = cardinality(positions)
        AND array_position(accounts, NULL) IS NULL AND array_position(positions, NULL) IS NULL
    ),
    CONSTRAINT shadow_decisions_are_finite CHECK (
        NOT positions && ARRAY['NaN', 'infinity', '-infinity']::double precision[]
    )
);

CREATE TABLE shadow_accounts (
    market_id  text               NOT NULL,
    account    text               NOT NULL,
    symbols    text[]             NOT NULL,
    units      double precision[] NOT NULL, -- of each symbol, below 0 short
    last_price double precision[] NOT NULL, -- of each symbol, NaN: never priced
    cash       double precision   NOT NULL CHECK (cash > '-infinity' AND cash < 'infinity'),
    equity     double precision   NOT NULL CHECK (equity > '-infinity' AND equity < 'infinity'),
    PRIMARY KEY (market_id, account),
    CHECK (cardinality(symbols) = cardinality(units) AND cardinality(symbols) = cardinality(last_price))
);

CREATE TABLE shadow_days (
    market_id     text             NOT NULL,
    account       text             NOT NULL,
    day           date             NOT NULL, -- UTC; a bar that closes at midnight is of the day that ends there
    opened_equity double precision NOT NULL CHECK (opened_equity > '-infinity' AND opened_equity < 'infinity'),
    equity        double precision NOT NULL CHECK (equity > '-infinity' AND equity < 'infinity'), -- at its last bar
    PRIMARY KEY (market_id, account, day)
);
CREATE INDEX shadow_days_by_day ON shadow_days (market_id, day);

-- What was known of the members when a day was over. Rows are only added, and the first of a day stands: no later day
-- revises a regime or a weight.
CREATE TABLE ensemble_weights (
    market_id     text        NOT NULL,
    day           date        NOT NULL, -- the last day that the weights have learned from
    model_version text        NOT NULL, -- whose members they are
    basis         text        NOT NULL CHECK (basis IN ('prior', 'walk-forward')), -- what they began with
    held          jsonb       NOT NULL, -- weights, the router's, why it abstained, the regime at the end of the day
    state         jsonb       NOT NULL, -- what the next day's weights are made from
    written_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, day)
);
