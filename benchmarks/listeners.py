"""The bootstrap of the measured Envoy: envoy-config's, with a listener for each way to the picker."""

import os
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from epp_client.envoy.bootstrap import envoy_config
from epp_client.envoy.own_clusters import SIDECAR_CLUSTER
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from testbed.ports import free_ports

Config = dict[str, Any]
HOST = "127.0.0.10"
POOLS = {
    "relay": Modes(),
    "observe": Modes(response=ResponseMode.OBSERVE),
    "skip": Modes(response=ResponseMode.SKIP),
    "headers-skip": Modes(RequestMode.HEADERS, ResponseMode.SKIP),
    "headers-none": Modes(RequestMode.HEADERS, ResponseMode.NONE),
}
"""What the picker of each pool gets."""


class Printed(NamedTuple):
    """What envoy-config prints."""

    document: Config
    """Without a listener for clients, and without the cluster of the sidecar."""
    listener: Config
    """To be copied, as the cluster is."""
    cluster: Config


def printed(ports: Iterator[int], socket: Path, xds: Path) -> Printed:
    """The bootstrap for one ext_proc socket. `ports` are free."""
    document: Config = yaml.safe_load(
        envoy_config(
            [PoolName("default", pool) for pool in POOLS],
            modes={PoolName("default", pool): modes for pool, modes in POOLS.items()},
            listener=(HOST, next(ports)),
            admin=(HOST, next(ports)),
            ext_proc_sockets=[socket],
            ads_socket=xds,
            access_log=False,
        )
    )
    return _parts(document)


def printed_by(checkout: Path, pools: Path) -> Printed:
    """What the envoy-config of another checkout prints, without access log."""
    found = subprocess.run(
        [
            checkout / ".venv/bin/epp-client", "envoy-config", "--pools", pools,
            "--socket", "/unused", "--xds-socket", "/unused-xds",
        ],
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    parts = _parts(yaml.safe_load(found.stdout))
    del manager_of(parts.listener)["access_log"]
    return parts


def _parts(document: Config) -> Printed:
    static = document["static_resources"]
    cluster = next(c for c in static["clusters"] if c["name"] == SIDECAR_CLUSTER)
    static["clusters"].remove(cluster)
    return Printed(document, static["listeners"].pop(), cluster)


def manager_of(listener: Config) -> Config:
    """The HTTP connection manager of a listener."""
    found: Config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def bootstrap(
    sockets: dict[str, Path], xds: Path, picker: str, before: Printed | None = None
) -> tuple[Config, dict[str, str]]:
    """The bootstrap of envoy-config, with a copy of its listener for each way, which differs in the
    ext_proc cluster; and the address of each listener, `host:port`. `before`: what the way `before` has."""
    ports = iter(free_ports(2 * len(sockets) + 4))
    document, usual, usual_cluster = printed(ports, Path("/unused"), xds)
    static = document["static_resources"]
    clusters = static["clusters"]
    ways = {}
    for way in ("direct", *sockets):
        listener, template = usual, usual_cluster
        if way == "before" and before is not None:
            _, listener, template = before
        cluster = deepcopy(template)
        cluster["name"] = cluster["load_assignment"]["cluster_name"] = way
        if way == "direct":
            ip, _, port = picker.rpartition(":")
            address: dict[str, Any] = {"socket_address": {"address": ip, "port_value": int(port)}}
        else:
            address = {"pipe": {"path": str(sockets[way])}}
        [locality] = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [{"endpoint": {"address": address}}]
        clusters.append(cluster)
        own = deepcopy(listener)
        own["name"] = way
        own["address"]["socket_address"] |= {"address": HOST, "port_value": (number := next(ports))}
        manager = manager_of(own)
        manager["stat_prefix"] = way
        ext_proc = manager["http_filters"][0]["typed_config"]
        ext_proc["grpc_service"]["envoy_grpc"]["cluster_name"] = way
        static["listeners"].append(own)
        ways[way] = f"{HOST}:{number}"
    return document, ways


def admin_of(document: Config) -> tuple[str, int]:
    """Where the admin page of this bootstrap listens."""
    address = document["admin"]["address"]["socket_address"]
    return address["address"], address["port_value"]
