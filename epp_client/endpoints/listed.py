"""A pool whose endpoints are listed one by one, as the values that `pool.resolve` takes. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from epp_client.endpoints.health import HealthCheck, Thresholds
from epp_client.option_values import host_port
from epp_client.pool.endpoints import endpoint_key
from epp_client.pool.inference_pool import (
    AppProtocol,
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.picker_host import Lookup, host_ref, host_target
from epp_client.pool.pods import PodFacts
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.resolve import PoolResolution, by_options, resolve_pool
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings

MAX_SHOWN = 20
"""Number of endpoints of a pool that are reported by name if they are not ready."""
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
    check: HealthCheck | None = None
    """How their health is checked; None: it is not, and all are ready."""


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
        PoolName(namespace, name),
        picker,
        settings.app_protocol,
        defaults,
        endpoints,
        check_of(settings),
    )


def check_of(settings: EndpointSettings) -> HealthCheck | None:
    """The health check that the options describe; None: there is none."""
    if settings.health_check == "off":
        return None
    return HealthCheck(
        settings.health_check,
        settings.health_check_interval,
        settings.health_check_timeout,
        Thresholds(settings.healthy_threshold, settings.unhealthy_threshold),
    )


def picker_ref(picker: str | None, failure_mode: FailureMode) -> EndpointPickerRef | None:
    """The reference to a picker at `host:port`."""
    if picker is None:
        return None
    return host_ref(*host_port(picker), failure_mode)


def listed_pool(
    name: PoolName,
    picker: EndpointPickerRef | None,
    app_protocol: AppProtocol,
    settings: PoolSettings,
    endpoints: tuple[ListedEndpoint, ...],
    check: HealthCheck | None,
) -> ListedPool:
    """A pool with these endpoints. Its target ports are the ports of the endpoints."""
    pool = InferencePool(
        name=name,
        match_labels=(),
        target_ports=tuple(sorted({endpoint.port for endpoint in endpoints})),
        app_protocol=app_protocol,
        picker=picker,
        settings=settings,
    )
    return ListedPool(pool, endpoints, check)


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
    # One address can have several endpoints. So a second endpoint does not mean that the address is reused.
    picker = None if pool.picker is None else host_target(pool.picker, looked_up)
    found = by_options(resolve_pool(pool, facts, picker, previous, now, others=()))
    return replace(found, problems=(*found.problems, *_not_ready(listed, unready)))


def _not_ready(listed: ListedPool, unready: Mapping[str, str]) -> Iterator[Problem]:
    """Report which endpoints are not ready, the first MAX_SHOWN by name."""
    subject = f"InferencePool {listed.pool.name}"
    found = [one.key for one in listed.endpoints if one.key in unready]
    for key in found[:MAX_SHOWN]:
        yield Problem(Severity.WARNING, unready[key], subject, f"endpoint {key}")
    if (more := len(found) - MAX_SHOWN) > 0:
        yield Problem(Severity.WARNING, f"{more} more endpoints are not ready", subject)
