-- Versions that a share of the callers is answered with, and what came of each. Both arms have accounts among those in
-- shadow, each in a book of its own: its market_id is that of the market, with the arm and the canary's name behind it.
CREATE TABLE canaries (
    market_id text             NOT NULL,
    version   text             NOT NULL,
    attempt   integer          NOT NULL CHECK (attempt > 0), -- one that was rolled back begins anew under a higher one
    began_at  timestamptz      NOT NULL, -- the close of the bar at which it began
    share     double precision NOT NULL CHECK (share >= 0 AND share <= 1), -- of the callers, as it was set last
    limits    jsonb            NOT NULL, -- beyond which it is rolled back, as they were set last
    set_at    timestamptz      NOT NULL DEFAULT clock_timestamp(),
    ended_at  timestamptz,     -- on the market's clock; null: it goes on
    -- configuration and activated: an operator took it away or made it the champion, and it may go on; else the limit
    -- that it broke, which is for good.
    ended_why text CHECK (ended_why IN ('configuration', 'activated', 'errors', 'latency', 'drawdown', 'net_pnl', 'calibration')),
    numbers   jsonb, -- of the limit that it broke
    PRIMARY KEY (market_id, version, attempt),
    CHECK ((ended_at IS NULL) = (ended_why IS NULL))
);

-- Each bar that a canary was asked of, once.
CREATE TABLE canary_bars (
    market_id text             NOT NULL,
    version   text             NOT NULL,
    attempt   integer          NOT NULL,
    as_of     timestamptz      NOT NULL,
    outcome   text             NOT NULL CHECK (outcome IN ('answered', 'incomplete', 'failed')),
    problem   text             NOT NULL,
    latency_s double precision CHECK (latency_s >= 0 AND latency_s < 'infinity'), -- null: it failed
    PRIMARY KEY (market_id, version, attempt, as_of),
    FOREIGN KEY (market_id, version, attempt) REFERENCES canaries
);

-- The equity of each account after each bar, of the books in which bars are compared.
CREATE TABLE shadow_equity (
    market_id text             NOT NULL,
    closes_at timestamptz      NOT NULL,
    account   text             NOT NULL,
    equity    double precision NOT NULL CHECK (equity > '-infinity' AND equity < 'infinity'),
    PRIMARY KEY (market_id, closes_at, account)
);
