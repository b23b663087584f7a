"""The endpoints that one process knows, encoded for a process of another version. Pure."""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from epp_client.pool.endpoints import Endpoint, EndpointTable, parse_endpoint
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.snapshot import PoolSnapshot

Known = Mapping[PoolName, EndpointTable]
"""Endpoints by pool. Only their addresses are known."""

_WORDS = TypeAdapter(dict[str, list[str]])


def write_known(snapshots: Mapping[str, PoolSnapshot]) -> bytes:
    """`{"namespace/name": ["ip:port", ...]}`, draining endpoints included."""
    words = {name: [*pool.table.by_key] for name, pool in snapshots.items() if pool.synced}
    return json.dumps(words, separators=(",", ":")).encode()


def read_known(answers: Iterable[bytes]) -> Known:
    """Merge the answers of several processes. Invalid answers and endpoints are ignored."""
    known: dict[PoolName, dict[str, Endpoint]] = {}
    # Most answers are equal.
    for answer in dict.fromkeys(answers):
        try:
            words = _WORDS.validate_json(answer)
        except ValidationError:
            continue
        for pool, texts in words.items():
            namespace, _, name = pool.partition("/")
            keys = filter(None, map(parse_endpoint, texts))
            known.setdefault(PoolName(namespace, name), {}).update((k, _endpoint(k)) for k in keys)
    return {pool: EndpointTable(MappingProxyType(by_key)) for pool, by_key in known.items()}


def _endpoint(key: str) -> Endpoint:
    host, _, port = key.rpartition(":")
    return Endpoint(key, host.strip("[]"), int(port), pod="")
