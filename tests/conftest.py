"""What holds for every test: how the suite is distributed, and that no process dies unasked."""

import gc
import os
import signal
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

# A shell that runs the suite in the background ignores SIGINT, and all children would: Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports grpcio: tests start child processes beside its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# An authority that has signed nothing, instead of those of the machine: no test talks to the world, and
# aiohttp and each client of httpx take 50 ms to read them.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "authority.pem")

import pytest
import structlog
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from testbed.deaths import DEATHS, WORKER_DIED, Death, ledger

# Tiers of their own: `make test-cluster` needs more than Python, `make test-slow` waits for minutes.
_TIERS = {"cluster": "EPP_CLIENT_TEST_CLUSTER", "slow": "EPP_CLIENT_TEST_SLOW"}
collect_ignore = [folder for folder, switch in _TIERS.items() if switch not in os.environ]

# A busy machine is no bug: what takes too long meets the test's own timeout.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

_APART = (
    "tests/controller/test_process.py",
    "tests/e2e/test_getting_started.py",
    "tests/e2e/test_incident.py",
    "tests/e2e/test_starts.py",
    "tests/slow/",
    "tests/terminal/test_commands.py",
)
"""Tests that take long and start all that they use: each may run in another process."""
_LONG = ("e2e", "workers", "transparency", "admin", "controller", "terminal", "up")
"""Folders whose tests start processes and wait for them. Those without come last: they are short, and a
process that is left alone at the end has little to do."""


class _Scheduling(LoadScopeScheduling):
    """A file runs in one process, as its tests share fixtures; but see _APART."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_APART) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """For `make test`, which runs several processes."""
    # By default the files with the most tests begin first, and they are short.
    config.option.loadscopereorder = False
    return _Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """All that is collected stays to the end: the garbage collector need not look at it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that may take longest begin first, so that no process is left alone with one at the end."""
    longest: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        allowed = float(mark.args[0]) if mark else 0.0
        longest[item.path] = max(allowed, longest.get(item.path, 0.0))
    items.sort(key=lambda item: (-longest[item.path], item.path.parent.name not in _LONG))


def _note_worker(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Workers of a sidecar in this process; SIGKILL comes from the test itself."""
    if event["event"] == WORKER_DIED and event["exit_code"] not in (None, -signal.SIGKILL):
        death = Death("a worker", event["pid"], event["exit_code"], asked=False, tail=str(event))
        ledger().append(death)
    return event


def _fail_for_deaths() -> None:
    if DEATHS:
        told = "\n".join(map(str, DEATHS))
        DEATHS.clear()
        pytest.fail(told)


@pytest.fixture(autouse=True)
def _nobody_has_died() -> Iterator[None]:
    processors = structlog.get_config()["processors"]
    # a test may have configured the logs
    if _note_worker not in processors:
        structlog.configure(processors=[_note_worker, *processors])
    yield
    _fail_for_deaths()


@pytest.fixture(autouse=True, scope="session")
def _nobody_dies_at_the_end() -> Iterator[None]:
    """Of what several tests share, ended after the last of them."""
    yield
    _fail_for_deaths()
