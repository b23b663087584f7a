"""What holds for every test: nobody dies meanwhile who was not told to end."""

import os
import signal
from collections.abc import Iterator, MutableMapping
from typing import Any

# Before anything imports grpcio: tests start child processes beside its threads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import pytest
import structlog
from hypothesis import settings

from testbed.deaths import DEATHS, WORKER_DIED, Death, ledger

# Tiers of their own: `make test-cluster` needs more than Python, `make test-slow` waits for minutes.
_TIERS = {"cluster": "EPP_CLIENT_TEST_CLUSTER", "slow": "EPP_CLIENT_TEST_SLOW"}
collect_ignore = [folder for folder, switch in _TIERS.items() if switch not in os.environ]

# A busy machine is no bug: what takes too long meets the test's own timeout.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


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
    if _note_worker not in processors:  # a test may have configured the logs
        structlog.configure(processors=[_note_worker, *processors])
    yield
    _fail_for_deaths()


@pytest.fixture(autouse=True, scope="session")
def _nobody_dies_at_the_end() -> Iterator[None]:
    """Of what several tests share, ended after the last of them."""
    yield
    _fail_for_deaths()
