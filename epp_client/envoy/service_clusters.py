"""Envoy's Clusters of Services as bytes, for CDS. Pure. Serialized ahead of time, as those of pools."""

from epp_client.envoy.pb.discovery_pb2 import Cluster
from epp_client.envoy.pb.pool_clusters import NAMELESS
from epp_client.gateway.table import ServicePort
from epp_client.pool.inference_pool import AppProtocol


def service_cluster_name(service: ServicePort) -> str:
    """Name of its cluster, and of its EDS resource: `service/<namespace>/<name>/<port>`."""
    return f"service/{service.namespace}/{service.name}/{service.port}"


def serialized_service_cluster(service: ServicePort, app_protocol: AppProtocol) -> bytes:
    """The Cluster of `clusters.service_cluster`, serialized."""
    named = Cluster(name=service_cluster_name(service)).SerializeToString()
    return named + NAMELESS["service", app_protocol.value]
