"""The writes of the online store, as scripts that run whole inside Redis."""

# KEYS: hash and window of each symbol. ARGV: ttl_ms, newest_us, prefix; then for each symbol event_us, the
# packed window, the number of hash arguments, the hash arguments. Returns 1 for each symbol written, else 0.
# What lies beyond newest_us is of an earlier run of a replay: it must not block this one.
WRITE_FEATURES = """
local ttl_ms, newest_us, prefix = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local at, written = 4, {}
for i = 1, #KEYS, 2 do
  local event_us, packed, n = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 2])
  local stored = redis.pcall('GETRANGE', KEYS[i + 1], 0, #prefix + 7)
  local keep = false
  if type(stored) == 'string' and #stored == #prefix + 8 and string.sub(stored, 1, #prefix) == prefix then
    local stored_us = struct.unpack('<i8', stored, #prefix + 1)
    keep = stored_us > event_us and stored_us <= newest_us
  end
  if not keep then
    redis.call('DEL', KEYS[i])
    local last = at + 2 + n
    for first = at + 3, last, 1000 do
      redis.call('HSET', KEYS[i], unpack(ARGV, first, math.min(first + 999, last)))
    end
    redis.call('PEXPIRE', KEYS[i], ttl_ms)
    redis.call('SET', KEYS[i + 1], packed, 'PX', ttl_ms)
  end
  written[#written + 1] = keep and 0 or 1
  at = at + 3 + n
end
return written
"""

# KEYS: the signals' keys. ARGV: ttl_ms, the newest instant, then for each key the JSON.
# Instants are texts of one width, so their order is that of time.
WRITE_SIGNALS = """
local ttl_ms, newest = ARGV[1], ARGV[2]
local written = {}
for i = 1, #KEYS do
  local new = cjson.decode(ARGV[2 + i])
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
    redis.call('SET', KEYS[i], ARGV[2 + i], 'PX', ttl_ms)
  end
  written[i] = keep and 0 or 1
end
return written
"""
