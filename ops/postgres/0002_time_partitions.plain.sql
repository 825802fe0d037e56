-- Native partitions by time, where TimescaleDB is not there to make them.
CREATE TABLE time_tables (
    table_name      text     PRIMARY KEY,
    -- Whole hours, so that an hour lies in one partition. A change holds for partitions that are made later.
    partition_every interval NOT NULL CHECK (
        partition_every >= interval '1 hour' AND extract(epoch FROM partition_every) % 3600 = 0
    ),
    keep_for        interval CHECK (keep_for > interval '0'), -- NULL: for ever
    n_ahead         integer  NOT NULL CHECK (n_ahead BETWEEN 1 AND 100)
);

-- What was dropped stays on record: its rows are not to come back.
CREATE TABLE time_partitions (
    table_name     text        NOT NULL REFERENCES time_tables,
    lower_ts       timestamptz NOT NULL,
    upper_ts       timestamptz NOT NULL,
    partition_name text        NOT NULL UNIQUE,
    dropped_at     timestamptz,
    PRIMARY KEY (table_name, lower_ts),
    CHECK (lower_ts < upper_ts)
);

-- Makes the partitions that the given hours need and that are not there; returns how many it made.
-- Safe to call at once from several sessions. A partition that was dropped is made again.
--
-- Call it in a transaction of its own, before the one that writes: a query that was planned before a partition was
-- attached does not read it. For the same reason a reader who must miss nothing reads in one snapshot (repeatable
-- read), which is taken before the plan.
CREATE FUNCTION make_time_partitions(of_table text, hours timestamptz[]) RETURNS integer
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    origin CONSTANT timestamptz := '2001-01-01'; -- a Monday
    missing timestamptz[];
    this_hour timestamptz;
    part time_partitions;
    every interval;
    n_made integer := 0;
BEGIN
    SELECT array_agg(h ORDER BY h) INTO missing FROM unnest(hours) h WHERE NOT EXISTS (
        SELECT FROM time_partitions p
        WHERE p.table_name = of_table AND p.lower_ts <= h AND h < p.upper_ts AND p.dropped_at IS NULL
    );
    IF missing IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(x'6C65766B'::int); -- one maker at a time
    SELECT t.partition_every INTO STRICT every FROM time_tables t WHERE t.table_name = of_table;
    FOREACH this_hour IN ARRAY missing LOOP
        SELECT p.* INTO part FROM time_partitions p
        WHERE p.table_name = of_table AND p.lower_ts <= this_hour AND this_hour < p.upper_ts;
        IF part.dropped_at IS NULL AND part.lower_ts IS NOT NULL THEN
            CONTINUE; -- made for an hour before this one, or by the maker before us
        END IF;
        IF part.lower_ts IS NULL THEN
            part.table_name := of_table;
            part.lower_ts := date_bin(every, this_hour, origin);
            part.upper_ts := part.lower_ts + every;
            -- Partitions of another length may be there from before.
            SELECT greatest(part.lower_ts, max(p.upper_ts)) INTO part.lower_ts FROM time_partitions p
            WHERE p.table_name = of_table AND p.upper_ts <= this_hour;
            SELECT least(part.upper_ts, min(p.lower_ts)) INTO part.upper_ts FROM time_partitions p
            WHERE p.table_name = of_table AND p.lower_ts > this_hour;
            part.partition_name := of_table || to_char(part.lower_ts, '"_"YYYYMMDD"_"HH24');
        END IF;
        INSERT INTO time_partitions VALUES (part.*)
        ON CONFLICT (table_name, lower_ts) DO UPDATE SET dropped_at = NULL;
        -- Attached, not created in place: that would lock readers and writers out.
        EXECUTE format(
            'CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part.partition_name, of_table
        );
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            of_table, part.partition_name, part.lower_ts, part.upper_ts
        );
        n_made := n_made + 1;
    END LOOP;
    RETURN n_made;
END
$$;
