"""PoolSnapshot: everything that a request needs to know about its pool, as one immutable value."""

from dataclasses import dataclass, field

from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.inference_pool import InferencePool


@dataclass(frozen=True, slots=True)
class PickerTarget:
    """The addresses of the pool's endpoint picker, or why there are none."""

    addresses: tuple[str, ...] = ()
    """Ready `ip:port` addresses behind the picker's Service port."""
    server_name: str = ""
    """`<service>.<namespace>.svc`: the default name to verify in TLS."""
    problem: str | None = None
    """Why there are no addresses, as text for the user; None if there are some."""
    never: bool = False
    """Whether only a change of the reference or of the Service can give it addresses."""

    @property
    def resolved(self) -> bool:
        """Whether the reference leads to a Service port, with or without a ready address."""
        return bool(self.server_name)


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool at one moment."""

    pool: InferencePool
    table: EndpointTable = field(default_factory=EndpointTable)
    picker: PickerTarget | None = None
    """None when the pool has no `endpointPickerRef`: all its requests get a local pick."""
    acknowledged: int | None = None
    """The table generation that every connected Envoy has; None when no Envoy gets EDS from us."""
    synced: bool = True
    """False until its Pods have been listed. Until then requests are refused."""

    def routable(self, key: str) -> bool:
        """Whether `key` is a member that every connected Envoy has."""
        endpoint = self.table.by_key.get(key)
        return endpoint is not None and (
            self.acknowledged is None or endpoint.since <= self.acknowledged
        )
