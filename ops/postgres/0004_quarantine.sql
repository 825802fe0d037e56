-- Rows that did not pass the checks of their table, with the reason.
CREATE TABLE quarantine (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    market_id  text        NOT NULL,
    table_name text        NOT NULL,
    symbol     text        NOT NULL,
    reason     text        NOT NULL,
    row        jsonb       NOT NULL,
    trace_id   text
);
-- The same row refused again is one row. A digest, since an index entry has a limit and a row has none.
CREATE UNIQUE INDEX quarantine_once ON quarantine (market_id, table_name, symbol, reason, md5(row::text));
CREATE INDEX quarantine_by_time ON quarantine (at);
CREATE INDEX quarantine_by_symbol ON quarantine (market_id, symbol, at);
