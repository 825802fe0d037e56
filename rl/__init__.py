"""Reinforcement learning: the market as a gymnasium environment.

Importing this package enters one name into gymnasium's table, `LeviBot/Trading-v0`, and does nothing else:
`gymnasium.make` knows no other way to find it, and the entry holds strings.
"""

from gymnasium import register, registry

NAME = "LeviBot/Trading-v0"

if NAME not in registry:
    register(
        id=NAME,
        entry_point="rl.trading_env:TradingEnv",
        vector_entry_point="rl.vector_env:TradingVectorEnv",
    )
