"""Envoy's Clusters of InferencePools as bytes, for CDS. Pure.

`clusters` builds them from Envoy's messages. Their import takes 0.3 s of CPU, so `make protos` builds the
clusters ahead of time, without their names.
"""

from epp_client.envoy.pb.discovery_pb2 import Cluster
from epp_client.envoy.pb.pool_clusters import NAMELESS
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.settings import UpstreamMode


def cluster_name(pool: PoolName) -> str:
    """Name of the pool's cluster: `inferencepool/<namespace>/<name>`."""
    return f"inferencepool/{pool.namespace}/{pool.name}"


def serialized_cluster(pool: PoolName, app_protocol: AppProtocol, mode: UpstreamMode) -> bytes:
    """The Cluster of `clusters.pool_cluster`, serialized."""
    named = Cluster(name=cluster_name(pool)).SerializeToString()
    return named + NAMELESS[mode.value, app_protocol.value]
