-- Every configuration that was ever scored, and every look at a hold-out: what the best of them is worth depends on
-- how many there are. Rows are only added.
CREATE TABLE trials (
    number        bigint           GENERATED ALWAYS AS IDENTITY UNIQUE, -- in the order of the commits
    trial_id      text             PRIMARY KEY, -- SHA-256 of what makes it one: a repeat is no second trial
    run_id        text             NOT NULL CHECK (run_id <> ''),
    kind          text             NOT NULL
        CHECK (kind IN ('search', 'selection', 'rl', 'hand', 'yardstick', 'hold-out')),
    market_id     text             NOT NULL,
    started_at    timestamptz      NOT NULL,
    scored_at     timestamptz      NOT NULL,
    data_hash     text             NOT NULL, -- empty where no data were seen yet
    view          text             NOT NULL,
    view_version  text             NOT NULL,
    seed          bigint           NOT NULL CHECK (seed >= 0),
    parameters    jsonb            NOT NULL,
    period_start  timestamptz      NOT NULL,
    period_end    timestamptz      NOT NULL CHECK (period_end > period_start),
    budget        double precision NOT NULL CHECK (budget > 0 AND budget <= 1),
    -- Annualised; NULL where not defined. NaN is greater than every number here.
    net_sharpe    double precision CHECK (net_sharpe > '-infinity' AND net_sharpe < 'infinity'),
    gross_sharpe  double precision CHECK (gross_sharpe > '-infinity' AND gross_sharpe < 'infinity'),
    n_days        integer          NOT NULL CHECK (n_days >= 0),
    daily_returns bytea            CHECK (length(daily_returns) = 4 * n_days), -- net, float32, little-endian
    status        text             NOT NULL CHECK (status IN ('scored', 'pruned', 'failed')),
    git_commit    text,
    written_at    timestamptz      NOT NULL DEFAULT now()
);
CREATE INDEX trials_by_market ON trials (market_id, kind);
CREATE INDEX trials_by_data ON trials (data_hash);
CREATE INDEX trials_by_run ON trials (run_id);

-- Journals remember what they have sent to which ledger; one that is made anew gets everything again.
CREATE TABLE trial_ledger (
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    only_one  bool PRIMARY KEY DEFAULT true CHECK (only_one)
);
INSERT INTO trial_ledger DEFAULT VALUES;

CREATE FUNCTION refuse_to_change_trials() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'trials are only added' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER trials_are_only_added BEFORE UPDATE OR DELETE ON trials
    FOR EACH ROW EXECUTE FUNCTION refuse_to_change_trials();
CREATE TRIGGER trials_are_not_emptied BEFORE TRUNCATE ON trials
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_trials();
