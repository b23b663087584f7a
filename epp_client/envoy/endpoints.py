"""Encodes EDS resources, with upb. Pure."""

from collections.abc import Iterable

from epp_client.envoy.pb.discovery_pb2 import ClusterLoadAssignment, LocalityLbEndpoints
from epp_client.pool.endpoints import Endpoint


class Assignment:
    """The ClusterLoadAssignment of one cluster.
    The encoded endpoints are cached, so that 10 000 of them take 1 ms instead of 10. Draining endpoints
    are included as healthy: a pick may still name them, and Envoy never balances over endpoints itself.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._written: dict[str, bytes] = {}

    def write(self, members: Iterable[Endpoint]) -> bytes:
        """Encode the resource with these endpoints."""
        known = self._written.get
        self._written = {m.key: known(m.key) or _write(m) for m in members}
        locality = b"".join(self._written.values())
        assignment = ClusterLoadAssignment(cluster_name=self._cluster, endpoints=[locality])
        return assignment.SerializeToString()


def _write(member: Endpoint) -> bytes:
    """A locality with one endpoint. Concatenated, such messages merge into one with all endpoints."""
    locality = LocalityLbEndpoints()
    address = locality.lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = member.ip, member.port
    return locality.SerializeToString()
