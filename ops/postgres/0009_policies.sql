-- What policies of reinforcement learning want, each with an account of its own. An account is all of its version's
-- decisions and the bars: it can be made again, and what a row says of it was true when the decision was taken.
CREATE TABLE policy_decisions (
    market_id      text             NOT NULL,
    policy_version text             NOT NULL,
    symbol         text             NOT NULL,
    as_of          timestamptz      NOT NULL, -- the close at which it was taken; it fills at the next bar's open
    follows        timestamptz      CHECK (follows < as_of), -- the decision before, which its account has; null: none
    view_version   text             NOT NULL,
    position       double precision NOT NULL CHECK (position >= -1 AND position <= 1), -- wanted, of equity
    action         double precision NOT NULL, -- 0 short, 1 flat, 2 long; of a continuous policy the position
    probabilities  jsonb            NOT NULL, -- of each choice; empty of a continuous policy
    features       jsonb            NOT NULL, -- as the policy read them, null where missing, and its account
    equity         double precision NOT NULL CHECK (equity > '-infinity' AND equity < 'infinity'), -- at that close
    written_at     timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, policy_version, symbol, as_of), -- whoever decides a close first has decided it
    -- Each is followed by one and follows one that is there. So whoever has missed a decision, or comes late with an
    -- older one, is refused: its account is another one.
    UNIQUE (market_id, policy_version, symbol, follows),
    FOREIGN KEY (market_id, policy_version, symbol, follows) REFERENCES policy_decisions
);
-- And one is the first; to a UNIQUE every null is another one.
CREATE UNIQUE INDEX policy_decisions_first ON policy_decisions (market_id, policy_version, symbol) WHERE follows IS NULL;
