"""The moves of dead letters, as scripts that run whole inside Redis."""

# KEYS: the queue. ARGV: the letter, the limit. Returns 1, or 0 when the queue is full.
# The client sends it once more when no answer came in time: the letter may be there already.
PUSH = """
if redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1) then return 1 end
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
return 1
"""

# KEYS: the queue, what the consumer has taken, the consumers, the consumer's lease.
# ARGV: the letter, the consumer, lease_ms. Returns 1, or 0 when the letter is not in the queue any more.
TAKE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], 1, 'PX', ARGV[3])
return 1
"""

# KEYS: the queue, what the consumer has taken. ARGV: the letter, and as it goes back, empty when delivered.
# A consumer slower than its lease finds its letter in the queue again: delivered, it is removed there.
GIVE_BACK = """
if redis.call('LREM', KEYS[2], 1, ARGV[1]) == 1 then
  if ARGV[2] ~= '' then redis.call('RPUSH', KEYS[1], ARGV[2]) end
  return 1
end
if ARGV[2] == '' then redis.call('LREM', KEYS[1], 1, ARGV[1]) end
return 0
"""

# KEYS: the queue, the consumers. ARGV: a consumer that counts as dead, the prefixes of the keys of what is
# taken and of the leases. Returns how many letters went back, to the front of the queue in their order.
RECOVER = """
local n = 0
for _, consumer in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if consumer == ARGV[1] or redis.call('EXISTS', ARGV[3] .. consumer) == 0 then
    while redis.call('LMOVE', ARGV[2] .. consumer, KEYS[1], 'RIGHT', 'LEFT') do n = n + 1 end
    redis.call('SREM', KEYS[2], consumer)
  end
end
return n
"""

# KEYS: the queue, the consumers. ARGV: the prefix of the keys of what is taken.
# Returns how many letters there are, in the queue and in hands. In one step: letters move meanwhile.
COUNT = """
local n = redis.call('LLEN', KEYS[1])
for _, consumer in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  n = n + redis.call('LLEN', ARGV[1] .. consumer)
end
return n
"""

# KEYS: the queue. ARGV: the index, the letter there, the letter instead. Returns 1, or 0 when it has moved.
REPLACE = """
if redis.call('LINDEX', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('LSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
