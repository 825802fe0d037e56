"""Appends events one by one and prints the identity of each that was acknowledged."""

import sys

import ray

from actors import NAMESPACE, event_log
from levibot.clock import SystemClock
from levibot.stores.events import Event

ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
log = ray.get_actor(event_log.NAME)
for number in range(int(sys.argv[1])):
    event = Event("trial", "BTCUSDT", SystemClock().now(), {"number": number})
    ray.get(log.append.remote([event]), timeout=60)
    print(event.event_id, flush=True)  # noqa: T201 - read by the test
print("READ", flush=True)  # noqa: T201
for stored in ray.get(log.read.remote(10_000, "trial"), timeout=60):
    print(stored.event_id, flush=True)  # noqa: T201
