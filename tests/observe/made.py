"""Snapshots, counters and looks for the tests of `observe`."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from epp_client.metrics.counters import Counters
from epp_client.observe.looks import Look
from epp_client.picker.health import Health
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import EndpointPickerRef, FailureMode, InferencePool, PoolName
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot

LLAMA = "default/llama"
QWEN = "default/qwen"
PICKER = "10.9.0.1:9002"


def table(ready: Iterable[int] = (), draining: Iterable[int] = ()) -> EndpointTable:
    """A table of endpoints by number."""
    members = [*((number, True) for number in ready), *((number, False) for number in draining)]
    made = [
        Endpoint(f"10.0.0.{number}:8000", f"10.0.0.{number}", 8000, f"pod-{number}", ready=alive)
        for number, alive in members
    ]
    return EndpointTable(MappingProxyType({one.key: one for one in made}))


def pool(
    name: str,
    ready: Iterable[int] = (1, 2),
    draining: Iterable[int] = (),
    *,
    mode: FailureMode = FailureMode.FAIL_CLOSE,
    pickers: tuple[str, ...] | None = (PICKER,),
    problem: str | None = None,
    synced: bool = True,
) -> PoolSnapshot:
    """A snapshot. `pickers`: addresses of its picker; None if it has none."""
    reference = EndpointPickerRef("epp", 9002, mode) if pickers is not None else None
    made = InferencePool(
        PoolName(*name.split("/")), (("app", name[8:]),), (8000,), picker=reference
    )
    target = PickerTarget(pickers, problem=problem) if pickers is not None else None
    return PoolSnapshot(made, table(ready, draining), target, synced=synced)


def look(
    *pools: PoolSnapshot,
    at: float = 100.0,
    counters: Counters | None = None,
    health: Mapping[str, Health] | None = None,
    reasons: Mapping[str, str] | None = None,
    problems: tuple[Problem, ...] = (),
    envoys: int = 1,
    nacks: int = 0,
    workers: int = 2,
) -> Look:
    """A look. `health`: of the addresses of every pool's picker; without it all serve."""
    found = counters or Counters()
    for one in pools:
        addresses = one.picker.addresses if one.picker is not None else ()
        found.pickers[str(one.pool.name)] = {
            address: (health or {}).get(address, Health.SERVING) for address in addresses
        }
    return Look(
        at=at,
        now=at,
        counters=found,
        snapshots={str(one.pool.name): one for one in pools},
        problems=problems,
        synced=True,
        reasons=reasons or {},
        envoys=envoys,
        serves_xds=True,
        nacks=nacks,
        workers=workers,
    )
