"""The writes of the online store, as scripts that run whole inside Redis."""

# KEYS: hash, vector and window of each symbol. ARGV: ttl_ms, ttl_us, newest_us, prefix, 1 where a field may
# expire, sent_us; then for each symbol event_us, the packed vector and window without their stamps, the
# number of hash arguments, these, the number of fields that end earlier, name and milliseconds of each.
# Returns 1 for each symbol written, else 0, and then the server's clock.
# What lies beyond newest_us is of an earlier run of a replay: it must not block this one. The stamp is the
# server's clock when the writer looked at its own, sent_us, so that the way here counts to the age; in
# microseconds it is a whole number that a double holds exactly.
WRITE_FEATURES = """
local ttl_ms, ttl_us, newest_us, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local has_field_ttl = ARGV[5] == '1'
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local stamp_us = math.min(now_us, tonumber(ARGV[6]))
local stamp = struct.pack('<i8i8', stamp_us, -stamp_us)
local expires_at = string.format('%.6f', (stamp_us + ttl_us) / 1000000)
local at, written = 7, {}
for i = 1, #KEYS, 3 do
  local event_us, vector, window, n = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local first, last = at + 4, at + 3 + n
  local n_early = tonumber(ARGV[last + 1])
  local stored = redis.pcall('GETRANGE', KEYS[i + 1], 24, #prefix + 31)
  local keep = false
  if type(stored) == 'string' and #stored == #prefix + 8 and string.sub(stored, 1, #prefix) == prefix then
    local stored_us = struct.unpack('<i8', stored, #prefix + 1)
    keep = stored_us > event_us and stored_us <= newest_us
  end
  if not keep then
    redis.call('DEL', KEYS[i])
    for from = first, last, 1000 do
      redis.call('HSET', KEYS[i], unpack(ARGV, from, math.min(from + 999, last)))
    end
    redis.call('HSET', KEYS[i], '_expires_at', expires_at)
    redis.call('PEXPIRE', KEYS[i], ttl_ms)
    for early = last + 2, last + 2 * n_early, 2 do
      if has_field_ttl then
        redis.call('HPEXPIRE', KEYS[i], ARGV[early + 1], 'FIELDS', 1, ARGV[early])
      end
      local ends_at = string.format('%.6f', stamp_us / 1000000 + tonumber(ARGV[early + 1]) / 1000)
      redis.call('HSET', KEYS[i], '_expires_at:' .. ARGV[early], ends_at)
    end
    redis.call('SET', KEYS[i + 1], stamp .. vector, 'PX', ttl_ms)
    redis.call('SET', KEYS[i + 2], stamp .. window, 'PX', ttl_ms)
  end
  written[#written + 1] = keep and 0 or 1
  at = last + 2 + 2 * n_early
end
written[#written + 1] = now_us
return written
"""

# KEYS: the signals' keys. ARGV: ttl_ms, the newest instant, then for each key the JSON.
# Instants are texts of one width, so their order is that of time.
WRITE_SIGNALS = """
local ttl_ms, newest, stream_length, stream_ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local stream = KEYS[#KEYS]
local written = {}
for i = 1, #KEYS - 1 do
  local given = ARGV[4 + i]
  local new = cjson.decode(given)
  local text = redis.pcall('GET', KEYS[i])
  local keep = false
  if type(text) == 'string' then
    local ok, old = pcall(cjson.decode, text)
    if ok and type(old) == 'table' and type(old.as_of) == 'string'
       and old.market_id == new.market_id and old.view_version == new.view_version then
      keep = old.as_of > new.as_of and old.as_of <= newest
    end
  end
  if not keep then
    redis.call('SET', KEYS[i], given, 'PX', ttl_ms)
    if text ~= given then
      redis.call('XADD', stream, 'MAXLEN', stream_length, '*', 'signal', given)
      redis.call('PEXPIRE', stream, stream_ttl_ms)
    end
  end
  written[i] = keep and 0 or 1
end
return written
"""
