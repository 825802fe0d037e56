"""Every call that leaves a process: through which guard it goes, and what is done when it fails.

Time-out, retry and circuit are the guard's (`levibot/resilience/guard.py`); how many attempts, and how long,
is said where the guard is made. This table says what no code says by itself: which way out a guard stands
before, and where its fallback is. Law 7's test holds it against the source of every package, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallOut:
    """One guard. module: where it is made. place: what it guards.

    through: names of functions and objects that lead out of the process; they are handed to a guard and never
    called. fallback: what happens without an answer. fallback_in: the function that does it, as
    `module:function` where that is another module's. called_in: the module that hands them to the guard,
    empty where it is the one that makes it.
    """

    module: str
    place: str
    through: tuple[str, ...]
    fallback: str
    fallback_in: str
    called_in: str = ""


CALLS = (
    CallOut(
        "actors/dead_letter_replayer.py",
        "Redis: the dead letters",
        ("_replay",),
        "the letters stay where they are, and are looked at again",
        "_run",
    ),
    CallOut(
        "actors/event_letters.py",
        "Redis: keeping lost events",
        ("_send",),
        "the JSON log line, by the client of the event log",
        "keeper",
    ),
    CallOut(
        "actors/event_letters.py",
        "the event log, once more",
        ("append", "append_to_log"),
        "the letter stays in its queue, and waits longer",
        "appender",
    ),
    CallOut(
        "actors/event_log.py",
        "the event log's actor",
        ("_send",),
        "the events become dead letters; where that fails too, a line in the log",
        "append",
    ),
    CallOut(
        "actors/event_log.py",
        "the event log's actor, read",
        ("_page",),
        "an error that says so, at once while the circuit is open; nothing else waits for it",
        "page",
    ),
    CallOut(
        "actors/feature_history.py",
        "the tick store: bars for the history",
        ("loader", "_bars", "rebuilt"),
        "the history waits, and loads what it missed at its next turn",
        "_run",
    ),
    CallOut(
        "actors/feature_shard.py",
        "the tick store: a shard's bars",
        ("_part",),
        "the cross-section is written without its symbols, which grow visibly stale",
        "levibot/features/materialise.py:_compute",
    ),
    CallOut(
        "actors/feature_shard.py",
        "another shard of the features",
        ("_ask",),
        "the cross-section is written without its symbols, which grow visibly stale",
        "levibot/features/materialise.py:_compute",
    ),
    CallOut(
        "actors/live_trades.py",
        "the tick store: trades",
        ("_intake",),
        "the trades wait, and what was missed is read from the exchange",
        "run",
        "levibot/market/trade_ingest.py",
    ),
    CallOut(
        "actors/market_feed.py",
        "the market's source and the tick store: holes",
        ("backfill",),
        "the holes wait for the next search",
        "_fill_holes",
    ),
    CallOut(
        "actors/market_feed.py",
        "the market's source and the tick store",
        ("ingest",),
        "the feed waits, and reads what it missed from the source",
        "_run",
    ),
    CallOut(
        "actors/feature_monitor.py",
        "the tick store and the registry",
        ("watch",),
        "the watch waits; a metric says when drift was last measured",
        "_run",
    ),
    CallOut(
        "actors/online_features.py",
        "the tick store and Redis",
        ("materialiser",),
        "the features wait, and grow visibly stale meanwhile",
        "_run",
    ),
    CallOut(
        "actors/online_features.py",
        "the features' actor, asked what must be online",
        ("_ask",),
        "not ready, with the reason, while vectors are missing",
        "deployments/api.py:_lacking_features",
    ),
    CallOut(
        "actors/outside_data.py",
        "the tick store: observations",
        ("_newest", "_take"),
        "what was read is read again at the next look, and counts from then on",
        "levibot/market/outside_poll.py:turn",
        "levibot/market/outside_poll.py",
    ),
    CallOut(
        "actors/processes.py",
        "the actors, for the pages of all processes",
        ("_ask",),
        "the process is named with the reason, and the others are shown",
        "_of",
    ),
    CallOut(
        "actors/shadow_ledger.py",
        "the tick store: bars, decisions and accounts",
        ("_turn", "_note_earned"),
        "the bars wait, and are priced later, each once",
        "_run",
    ),
    CallOut(
        "actors/shadow_ledger.py",
        "the tick store: bars and decisions of a canary's arms",
        ("_turn_canary",),
        "the arms' bars wait, and are priced later, each once; the market's own are priced",
        "_priced_canary",
    ),
    CallOut(
        "actors/shadow_models.py",
        "Redis: windows for the shadow models",
        ("online",),
        "the shadow models wait; what they miss meanwhile is not looked for again",
        "_run",
    ),
    CallOut(
        "actors/ensemble_weights.py",
        "the tick store, the registry and Redis: the weights",
        ("keeping",),
        "the weights wait; signals are taken under the last ones, and say how old these are",
        "_run",
    ),
    CallOut(
        "actors/webhook_intake.py",
        "Redis: the queue of webhooks",
        ("_take", "_done", "_bury"),
        "what was not finished stays in the queue, and is taken again",
        "_run",
    ),
    CallOut(
        "deployments/webhooks.py",
        "Redis: the queue of webhooks, and what came already",
        ("_accept",),
        "an error, on which the sender repeats: a webhook counts once",
        "accept",
    ),
    CallOut(
        "levibot/access/key_limiter.py",
        "Redis: how often a key has asked",
        ("_take",),
        "each replica counts by itself",
        "_own",
    ),
    CallOut(
        "levibot/monitoring/health.py",
        "every dependency of the face, for a sign of life",
        ("probe",),
        "it is called down, which is the answer",
        "look",
    ),
    CallOut(
        "deployments/api.py",
        "Redis: signals and features",
        ("_online",),
        "the router, then what was answered last, with its age",
        "_find",
    ),
    CallOut(
        "deployments/api.py",
        "the router's replica",
        ("_remote_signals", "_remote_signals_of"),
        "what was answered last, with its age",
        "_route",
    ),
    CallOut(
        "deployments/models.py",
        "the model registry, and Redis for who switches",
        ("_read", "_load", "_activate"),
        "the list as it was last, with when and why; an activation is refused and changes nothing",
        "list",
    ),
    CallOut(
        "levibot/serving/request_features.py",
        "the tick store: bars of a request",
        ("_read",),
        "the bars that were read last, with their age, and the reason",
        "_bars",
    ),
    CallOut(
        "deployments/holder.py",
        "the replicas of the members",
        ("_remote_say",),
        "the others' opinions, and why this one's are absent; without any, the desk's last signals",
        "levibot/serving/member_panel.py:signals",
    ),
    CallOut(
        "deployments/holder.py",
        "the replicas of the members, loading a version",
        ("_remote_load",),
        "the version before goes on; with none before, the members that have it",
        "deployments/router.py:_loaded",
    ),
    CallOut(
        "deployments/processes.py",
        "the router, for the pages of all processes",
        ("_ask_router",),
        "the router is named with the reason, and the others are shown",
        "_of_router",
    ),
    CallOut(
        "levibot/launch/trial_intake.py",
        "PostgreSQL: the trial ledger",
        ("_exchange",),
        "the trials stay in the journal, and are sent at a later turn",
        "turn",
    ),
    CallOut(
        "levibot/market/exchange_client.py",
        "the exchange",
        ("attempt",),
        "the feed waits, and reads what it missed",
        "actors/market_feed.py:_run",
    ),
    CallOut(
        "levibot/market/http_client.py",
        "0x, Reservoir, OpenAI",
        ("attempt",),
        "the last answer, with its age",
        "levibot/market/last_known.py:last_known",
    ),
    CallOut(
        "levibot/serving/canary_desk.py",
        "Redis: the canary's signals",
        ("write",),
        "those in its arm have its last signals while these are fresh, then the champion's, and hear of it",
        "levibot/serving/arms.py:of_canary",
    ),
    CallOut(
        "levibot/serving/canary_keeping.py",
        "the tick store: what a canary did, and whether it may begin",
        ("_begin", "_end", "turn"),
        "no canary begins; what one does waits in memory, and errors and latency are judged all the same",
        "note",
    ),
    CallOut(
        "levibot/serving/desk.py",
        "Redis: windows and signals",
        ("_online",),
        "the last signals, which the caller takes from here",
        "last",
    ),
    CallOut(
        "levibot/serving/recorder.py",
        "the tick store: signals and decisions",
        ("_write",),
        "the signals wait in memory, and are written later; a decision that came too late says so",
        "_write_all",
    ),
    CallOut(
        "levibot/serving/signal_feed.py",
        "Redis: the stream of signals",
        ("_stream",),
        "nothing comes; what Redis still holds afterwards is told then, and what it lost is told as a gap",
        "follow",
    ),
    CallOut(
        "levibot/serving/weighing.py",
        "Redis: the weights of the ensemble",
        ("_weights",),
        "the weights that were read last, then the prior; the signal says which, and how old",
        "route",
    ),
    CallOut(
        "deployments/policies.py",
        "the replica of the policy in shadow",
        ("_of_replica",),
        "an error that says so: nothing depends on what a shadow wants",
        "decision",
    ),
    CallOut(
        "deployments/rl_policy.py",
        "Redis: the features",
        ("_online",),
        "the last decisions, with their age",
        "decision",
    ),
    CallOut(
        "deployments/rl_policy.py",
        "the tick store: bars and decisions",
        ("_decide",),
        "the last decisions, with their age; the accounts catch up with the bars",
        "decision",
    ),
    CallOut(
        "deployments/rl_policy.py",
        "the registry of policies",
        ("_read",),
        "the reason, until it answers",
        "decision",
    ),
    CallOut(
        "deployments/canaries.py",
        "the tick store: the canary and its arms",
        ("_read",),
        "what was read last, with the reason",
        "canary",
    ),
    CallOut(
        "deployments/ensemble.py",
        "Redis: the weights of the ensemble",
        ("_weights",),
        "the weights that were read last, with their age and the reason",
        "weights",
    ),
    CallOut(
        "deployments/ensemble.py",
        "the tick store: history of weights and accounts",
        ("_read",),
        "what was read last, with the reason",
        "weights",
    ),
    CallOut(
        "levibot/stores/active_version.py",
        "the model registry",
        ("_registry",),
        "the version that was live last, with the age of that answer",
        "get",
    ),
    CallOut(
        "levibot/stores/cache.py",
        "Redis: the cache's second tier",
        ("_get", "_set", "_forget_in_redis"),
        "the loader",
        "_look_further",
    ),
    CallOut(
        "levibot/stores/postgres_replica.py",
        "the read replica",
        ("_read",),
        "the primary",
        "levibot/stores/postgres_client.py:read",
    ),
)

# The modules that may hold a client of each library; all other modules go through them.
BOUNDARIES: Mapping[str, frozenset[str]] = {
    "aiohttp": frozenset({"levibot/market/exchange_wire.py"}),
    "asyncpg": frozenset(
        {
            "levibot/stores/migrations.py",
            "levibot/stores/partitions.py",
            "levibot/stores/pool_census.py",
            "levibot/stores/postgres_client.py",
            "levibot/stores/postgres_errors.py",
            "levibot/stores/postgres_pool.py",
            "levibot/stores/rollup.py",
            "levibot/stores/tick_table.py",
        }
    ),
    "ccxt": frozenset({"levibot/market/exchange_wire.py"}),
    "clickhouse_connect": frozenset(
        {
            "levibot/stores/clickhouse.py",
            "levibot/stores/clickhouse_migrations.py",
            "levibot/stores/events.py",
        },
    ),
    "httpx": frozenset(
        {
            "levibot/launch/ray_head.py",
            "levibot/launch/up.py",
            "levibot/market/http_client.py",
            "levibot/serving/client.py",
        },
    ),
    # Ours, and not guarded yet: only the guarded client and its stream may use it.
    "levibot.market.exchange_wire": frozenset(
        {"levibot/market/exchange_client.py", "levibot/market/trade_stream.py"},
    ),
    "obstore": frozenset({"levibot/stores/model_bucket.py"}),
    "redis": frozenset(
        {
            "levibot/resilience/circuit_board.py",
            "levibot/resilience/dead_letters.py",
            "levibot/resilience/idempotency.py",
            "levibot/stores/cache.py",
            "levibot/stores/capabilities.py",
            "levibot/stores/connect.py",
            "levibot/stores/durable.py",
            "levibot/stores/failover.py",
            "levibot/stores/live_weights.py",
            "levibot/stores/online.py",
            "levibot/stores/online_signals.py",
            "levibot/stores/rate_limiter.py",
            "levibot/stores/redis.py",
            "levibot/stores/redis_connection.py",
            "levibot/stores/redis_url.py",
            "levibot/stores/server_time.py",
            "levibot/stores/signal_stream.py",
            "levibot/stores/spending.py",
            "levibot/stores/valkey_server.py",
            "levibot/stores/webhook_queue.py",
        }
    ),
    "socket": frozenset({"levibot/stores/server_process.py"}),
}

# Who opens a store or calls an actor without a guard, and why that is right: `module` or `module:function`.
UNGUARDED: Mapping[str, str] = {
    "actors/detached.py:start_detached": "starts an actor; the deployment fails as a whole and says so",
    "actors/event_log.py": "the owner of the engine: each caller has its own guard",
    "actors/online_features.py:poke": "nobody waits for it; the actor looks by itself every second",
    "deployments/router.py": "opens for the desk, the weighing and the recorder, who guard their calls",
    "deployments/probes.py": "each is handed to HealthWatch, which guards it",
    "levibot/commands/audit.py": "an operator waits, and the error is the answer",
    "levibot/commands/backtest.py": "an operator waits, and the error is the answer",
    "levibot/commands/dead_letters.py": "an operator waits, and the error is the answer",
    "levibot/commands/feature_parity.py": "an operator waits, and the error is the answer",
    "levibot/commands/feature_report.py": "an operator waits, and the error is the answer",
    "levibot/commands/features.py": "an operator waits, and the error is the answer",
    "levibot/commands/market.py": "an operator waits, and the error is the answer",
    "levibot/commands/stores.py": "an operator waits, and the error is the answer",
    "levibot/commands/trials.py": "an operator waits, and gets the trials of the state folder without it",
    "levibot/launch/up.py": "an operator waits; a start that fails ends what it has begun, and says why",
    "levibot/serving/canary.py": "opens for the record of canaries, which guards its calls",
    "levibot/stores/connect.py": "opens for others, who guard their calls",
    "levibot/stores/online.py": "opens for others, who guard their calls",
    "rl/array_runner.py:set_state": "RLlib starts a runner again that cannot read its weights",
    "rl/traded_market.py": "read once, when an environment is made; without its market there is none",
    "tune/backfill_features.py": "a job: it is run again, and what was done is not done twice",
    "tune/backtest.py": "a job: Ray repeats its tasks; one that fails writes no report",
    "tune/registration.py": "a job: one that fails is run again, and publishes nothing twice",
    "tune/search.py": "a job: it goes on with what is in its study",
    "tune/select_features.py": "a job: Ray repeats its tasks; one that fails writes no file",
    "tune/train.py": "a job: Ray repeats its task; one that fails publishes nothing",
    "tune/training_data.py": "a job: without an export it reads the bars, and says so",
    "tune/walk_ensemble.py": "a job: Ray repeats its task; one that fails publishes nothing",
}
