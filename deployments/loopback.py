"""Keeps Serve's replicas off the network of a one-node cluster."""

from __future__ import annotations

from typing import Any

import ray.util
from ray.serve._private import replica

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Bind this replica's gRPC server to loopback where the node itself is there; elsewhere do nothing.

    Ray Serve 2.60 binds it to every interface, `[::]:0` in its source, and has no setting for it. Called in a
    replica's constructor, which runs before that server starts.
    """
    if ray.util.get_node_ip_address() != LOOPBACK:
        return
    bind = replica.add_port_to_grpc_server

    def bind_to_loopback(server: Any, address: str) -> int:
        port: int = bind(server, address.replace("[::]", LOOPBACK))
        return port

    replica.add_port_to_grpc_server = bind_to_loopback
