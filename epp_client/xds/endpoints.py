"""EDS resources, written with upb: 1 000 endpoints in about one millisecond. Pure."""

from epp_client.pool.snapshot import PoolSnapshot
from epp_client.xds.clusters import cluster_name
from epp_client.xds.pb.discovery_pb2 import ClusterLoadAssignment


def load_assignment(snapshot: PoolSnapshot) -> bytes:
    """The ClusterLoadAssignment of one pool.

    Draining endpoints stay in it, as healthy as the others: a pick may still name them, and the
    strict fallback never balances over them.
    """
    assignment = ClusterLoadAssignment(cluster_name=cluster_name(snapshot.pool.name))
    endpoints = assignment.endpoints.add().lb_endpoints
    for member in snapshot.table.by_key.values():
        address = endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = member.ip, member.port
    return assignment.SerializeToString()
