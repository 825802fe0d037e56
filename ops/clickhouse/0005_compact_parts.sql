-- All columns of a part of the lists in one file. A page takes a granule or two from each of many parts, and every
-- column that is a file of its own is opened, and its marks are read, for each of them: twice the processor time of a
-- page. In `events` it gains nothing: of its parts a page reads one or two.
--
-- A partition that has had no insert for an hour becomes one part: a page of what is rare reads from each.
--
-- Parts that are there already change with their next merge.
ALTER TABLE events_listed MODIFY SETTING
    min_bytes_for_wide_part = 1099511627776,
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;

ALTER TABLE events MODIFY SETTING
    min_age_to_force_merge_seconds = 3600, min_age_to_force_merge_on_partition_only = 1;
