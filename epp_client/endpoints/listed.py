"""A pool whose endpoints are listed one by one, as the values that `pool.resolve` takes. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from epp_client.pool.endpoints import canonical_ip, endpoint_key
from epp_client.pool.inference_pool import (
    AppProtocol,
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.pods import PodFacts
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.resolve import PoolResolution, resolve_pool
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget
from epp_client.settings import EndpointSettings, host_port

MAX_SHOWN = 20
"""Endpoints of a pool that are not ready and reported one by one."""
_NONE: Mapping[str, str] = MappingProxyType({})
_NO_PORTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ListedEndpoint:
    """One endpoint."""

    name: str
    """Its name in `/pools`."""
    ip: str
    """In canonical spelling."""
    port: int
    labels: Mapping[str, str] = field(default_factory=lambda: _NONE)

    @property
    def key(self) -> str:
        """`ip:port`, or `[ip]:port` for IPv6."""
        return endpoint_key(self.ip, self.port)


@dataclass(frozen=True, slots=True)
class ListedPool:
    """A pool and its endpoints. Its picker's reference has a host and a port instead of a Service."""

    pool: InferencePool
    endpoints: tuple[ListedEndpoint, ...]


@dataclass(frozen=True, slots=True)
class Lookup:
    """The newest result of looking up the host of a picker."""

    ips: tuple[str, ...] = ()
    """The addresses. A failed lookup keeps those of the one before."""
    failure: str = ""
    """Why the newest lookup failed; empty if it did not."""


def given_endpoints(settings: EndpointSettings) -> tuple[ListedEndpoint, ...]:
    """The endpoints of the options."""
    return tuple(ListedEndpoint(key, *host_port(key)) for key in settings.endpoint)


def pool_of(
    settings: EndpointSettings, defaults: PoolSettings, endpoints: tuple[ListedEndpoint, ...]
) -> ListedPool:
    """The pool that the options give, with these endpoints."""
    namespace, _, name = settings.pool_name.partition("/")
    picker = picker_ref(settings.picker, settings.failure_mode)
    return listed_pool(
        PoolName(namespace, name), picker, settings.app_protocol, defaults, endpoints
    )


def picker_ref(picker: str | None, failure_mode: FailureMode) -> EndpointPickerRef | None:
    """The reference to a picker at `host:port`."""
    if picker is None:
        return None
    return EndpointPickerRef(*host_port(picker), failure_mode, kind="Host")


def listed_pool(
    name: PoolName,
    picker: EndpointPickerRef | None,
    app_protocol: AppProtocol,
    settings: PoolSettings,
    endpoints: tuple[ListedEndpoint, ...],
) -> ListedPool:
    """A pool with these endpoints. Its target ports are theirs."""
    pool = InferencePool(
        name=name,
        match_labels=(),
        target_ports=tuple(sorted({endpoint.port for endpoint in endpoints})),
        app_protocol=app_protocol,
        picker=picker,
        settings=settings,
    )
    return ListedPool(pool, endpoints)


def host_to_look_up(pool: InferencePool) -> str | None:
    """The name of the picker's host; None if there is no picker, or it has an address."""
    if pool.picker is None or canonical_ip(pool.picker.name) is not None:
        return None
    return pool.picker.name


def picker_of(pool: InferencePool, looked_up: Lookup) -> PickerTarget | None:
    """The addresses of the pool's picker, or why there are none."""
    if (ref := pool.picker) is None:
        return None
    assert ref.port is not None
    ip = canonical_ip(ref.name)
    ips = looked_up.ips if ip is None else (ip,)
    addresses = tuple(sorted(endpoint_key(ip, ref.port) for ip in ips))
    problem = None if addresses else f"host {ref.name} has no address: {looked_up.failure}"
    return PickerTarget(addresses, ref.name, problem)


def resolve_listed(
    listed: ListedPool,
    looked_up: Lookup,
    previous: PoolResolution | None,
    now: float,
    unready: Mapping[str, str] = _NONE,
) -> PoolResolution:
    """Resolve a pool. `now` is in seconds of a monotonic clock. `unready` has the endpoints that are not
    ready, and why."""
    pool = listed.pool
    facts = [
        PodFacts(
            name=endpoint.name,
            namespace=pool.name.namespace,
            labels=endpoint.labels,
            ip=endpoint.ip,
            ready=endpoint.key not in unready,
            active_ports=str(endpoint.port),
            named_ports=_NO_PORTS,
        )
        for endpoint in listed.endpoints
    ]
    # One address can have several endpoints, so another one does not mean that the address is reused.
    found = resolve_pool(pool, facts, picker_of(pool, looked_up), previous, now, others=())
    problems = [
        problem._replace(field="picker") if problem.field.endswith("Ref") else problem
        for problem in found.problems
    ]
    problems += _not_ready(listed, unready)
    return replace(found, problems=tuple(problems))


def _not_ready(listed: ListedPool, unready: Mapping[str, str]) -> Iterator[Problem]:
    """Say which endpoints are not ready, the first ones by name."""
    subject = f"InferencePool {listed.pool.name}"
    found = [one.key for one in listed.endpoints if one.key in unready]
    for key in found[:MAX_SHOWN]:
        yield Problem(Severity.WARNING, unready[key], subject, f"endpoint {key}")
    if (more := len(found) - MAX_SHOWN) > 0:
        yield Problem(Severity.WARNING, f"{more} more endpoints are not ready", subject)
