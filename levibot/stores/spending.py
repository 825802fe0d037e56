"""What paid sources cost a day, in Redis: `budget:{source}:{day}`, in billionths of a dollar."""

from __future__ import annotations

from datetime import date

from redis.asyncio import Redis

from levibot.errors import StoreError
from levibot.stores.redis import ask

# A day's account outlives the day, for who asks what was spent.
KEEP_S = 3 * 86_400

# KEYS: the account. ARGV: amount, limit, life in seconds. Returns 1 when the amount was added, else 0.
RESERVE = """
local spent = tonumber(redis.call('GET', KEYS[1]) or '0')
if spent + tonumber(ARGV[1]) > tonumber(ARGV[2]) then
  return 0
end
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""

# KEYS: the account. ARGV: change, life in seconds. An account that is gone stays gone: its day is over.
SETTLE = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('INCRBY', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return 1
"""


class RedisSpending:
    """The accounts of every process that shares the server; they survive a restart. See `Spending`.

    redis: a client of a server that evicts nothing. It stays the caller's.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reserve = redis.register_script(RESERVE)
        self._settle = redis.register_script(SETTLE)

    async def reserve(self, source: str, day: date, nano_usd: int, limit_nano_usd: int) -> bool:
        answer = self._reserve(keys=[_key(source, day)], args=[nano_usd, limit_nano_usd, KEEP_S])
        return bool(await ask("reserve money", answer))

    async def settle(self, source: str, day: date, change_nano_usd: int) -> None:
        await ask("settle a cost", self._settle(keys=[_key(source, day)], args=[change_nano_usd, KEEP_S]))

    async def spent_nano_usd(self, source: str, day: date) -> int:
        value = await ask("read a budget", self._redis.get(_key(source, day)))
        try:
            return int(value or 0)
        except ValueError as exc:
            raise StoreError(f"{_key(source, day)} holds no number.") from exc


def _key(source: str, day: date) -> str:
    return f"budget:{source}:{day.isoformat()}"
