"""Which bootstrap a connected Envoy has: one that an earlier version printed makes Envoy crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from epp_client.envoy.bootstrap import envoy_config
from epp_client.envoy.node import EDITION_KEY, outdated
from epp_client.envoy.pb.discovery_pb2 import Node
from epp_client.pool.store import PoolStore
from testbed.envoy import running_envoy

from .talking_envoy import POOL, publish, serving

WARNING = "Envoy has an outdated bootstrap"


def of_an_earlier_version(bootstrap: dict[str, Any]) -> None:
    del bootstrap["node"]["metadata"]


def of_somebody_else(bootstrap: dict[str, Any]) -> None:
    bootstrap["node"] = {"id": "envoy", "cluster": "edge"}


def as_printed(_: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("edit", "warnings"), [(of_an_earlier_version, 1), (of_somebody_else, 0), (as_printed, 0)]
)
async def test_an_envoy_whose_bootstrap_is_of_an_earlier_version_is_named_once(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], warnings: int
) -> None:
    store, path = PoolStore(), tmp_path / "xds"
    publish(store, 1)
    bootstrap = yaml.safe_load(
        envoy_config(
            [POOL.name],
            listener=("127.0.0.1", 0),
            admin=("127.0.0.1", 0),
            ext_proc_sockets=[tmp_path / "ext-proc"],
            ads_socket=path,
        )
    )
    edit(bootstrap)
    with capture_logs() as logs:
        async with serving(store, path) as server:
            server.begin({})
            for _ in range(2):
                async with running_envoy(yaml.safe_dump(bootstrap)):
                    await server.told(60)
    assert [line["log_level"] for line in logs if line["event"] == WARNING] == [
        "warning"
    ] * warnings


def test_the_warning_says_what_to_do() -> None:
    problem = outdated(Node(cluster="epp-client"))
    assert problem is not None
    assert "print a new bootstrap and restart Envoy" in problem
    current = Node(cluster="epp-client")
    current.metadata[EDITION_KEY] = "2"
    assert outdated(current) is None
