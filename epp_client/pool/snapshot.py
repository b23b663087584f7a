"""PoolSnapshot: everything a request needs to know about its pool, as one immutable value."""

from dataclasses import dataclass, field

from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.inference_pool import InferencePool


@dataclass(frozen=True, slots=True)
class PickerTarget:
    """Where the pool's endpoint picker listens, or why that is unknown."""

    addresses: tuple[str, ...] = ()
    """Ready `ip:port` addresses behind the picker's Service port."""
    server_name: str = ""
    """`<service>.<namespace>.svc`: the default name to verify in TLS."""
    problem: str | None = None
    """Why there are no addresses, in words for the user; None when there are some."""
    never: bool = False
    """Whether there will be none until somebody edits the reference or the Service."""

    @property
    def resolved(self) -> bool:
        """Whether the reference leads to a Service port, be it one without a ready address."""
        return bool(self.server_name)


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool at one moment."""

    pool: InferencePool
    table: EndpointTable = field(default_factory=EndpointTable)
    picker: PickerTarget | None = None
    """None when the pool has no `endpointPickerRef`: it is served by the local pick."""
    acknowledged: int | None = None
    """Table generation that every connected Envoy has; None when no Envoy takes EDS from us."""
    synced: bool = True
    """False while its Pods have not been listed: unknown is never none, so requests are refused."""

    def routable(self, key: str) -> bool:
        """Whether `key` is a member that Envoy is known to have."""
        endpoint = self.table.by_key.get(key)
        return endpoint is not None and (
            self.acknowledged is None or endpoint.since <= self.acknowledged
        )
