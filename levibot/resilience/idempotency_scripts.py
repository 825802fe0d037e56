"""Claims of idempotency keys, as scripts that run whole inside Redis, on the server's own clock."""

_NOW = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: the key. ARGV: the request's fingerprint, lease_ms, ttl_ms.
# Returns {'claimed', token}, {'done', result}, {'busy', ms until the lease ends} or {'other'}.
CLAIM = (
    _NOW
    + """
local stored = redis.call('HMGET', KEYS[1], 'fingerprint', 'result', 'lease_until_ms')
if stored[1] and stored[1] ~= ARGV[1] then return {'other'} end
if stored[2] then return {'done', stored[2]} end
if stored[3] and tonumber(stored[3]) > now_ms then return {'busy', stored[3] - now_ms} end
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'lease_until_ms', now_ms + ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[2]), tonumber(ARGV[3])))
return {'claimed', token}
"""
)

# KEYS: the key. ARGV: the token, lease_ms (0 gives the claim up).
# Returns 1, or 0 when the claim is another's.
HOLD = (
    _NOW
    + """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'result') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'lease_until_ms', now_ms + ARGV[2])
if redis.call('PTTL', KEYS[1]) < 2 * ARGV[2] then redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2]) end
return 1
"""
)

# KEYS: the key. ARGV: the token, the result, ttl_ms. Returns 1, or 0 when the claim is another's.
FINISH = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'result', ARGV[2])
redis.call('HDEL', KEYS[1], 'lease_until_ms')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
