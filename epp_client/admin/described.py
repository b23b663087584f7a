"""One pool and its endpoints as JSON. Plain values; no HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

from epp_client.picker.health import Health
from epp_client.pool.endpoints import Endpoint
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.tls_settings import ClientTls


def endpoint_json(endpoint: Endpoint) -> dict[str, str]:
    """One endpoint."""
    return {
        "endpoint": endpoint.key,
        "pod": endpoint.pod,
        "state": "ready" if endpoint.ready else "draining",
    }


def described(
    snapshot: PoolSnapshot, problems: Sequence[Problem], health: Mapping[str, Health]
) -> dict[str, Any]:
    """A pool, without its endpoints. `health` has the state of each address of its picker."""
    pool = snapshot.pool
    return {
        "namespace": pool.name.namespace,
        "name": pool.name.name,
        **chosen(snapshot, problems),
        "picker": None
        if snapshot.picker is None
        else {
            "addresses": list(snapshot.picker.addresses),
            "health": {a: health.get(a, Health.UNTRIED) for a in snapshot.picker.addresses},
            "problem": snapshot.picker.problem,
        },
        "generation": snapshot.table.generation,
        "acknowledgedGeneration": snapshot.acknowledged,
    }


def chosen(snapshot: PoolSnapshot, problems: Sequence[Problem]) -> dict[str, Any]:
    """What people have chosen for a pool, and what is wrong with it."""
    pool = snapshot.pool
    subject = f"InferencePool {pool.name}"
    return {
        "selector": dict(pool.match_labels),
        **({"endpointSelector": pool.selector} if pool.selector else {}),
        "targetPorts": list(pool.target_ports),
        "appProtocol": str(pool.app_protocol),
        "failureMode": str(pool.failure_mode),
        "settings": {
            **pool.settings.model_dump(mode="json", exclude={"tls"}),
            "tls": _tls(pool.settings.tls),
        },
        "problems": [str(problem) for problem in problems if problem.subject == subject],
    }


def _tls(tls: ClientTls) -> dict[str, str | bool | None]:
    """TLS settings without the paths of the key files."""
    return {
        "mode": str(tls.mode),
        "server_name": tls.server_name,
        "own_ca": tls.ca_file is not None,
        "client_certificate": tls.cert_file is not None,
    }
