"""Writes epp_client/envoy/pb/pool_clusters.py: the Clusters of pools and Services, serialized without their names."""

from pathlib import Path

from envoy_data_plane.envoy.config.cluster.v3 import Cluster

from epp_client.envoy.clusters import pool_cluster, service_cluster
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.settings import UpstreamMode

TARGET = Path(__file__).parents[1] / "epp_client" / "envoy" / "pb" / "pool_clusters.py"
WIDTH = 80


def source() -> str:
    """The module's source."""
    lines = [
        '"""Written by `make protos`: Envoy\'s Clusters of pools and Services, see `envoy.pool_clusters`."""',
        "",
        "NAMELESS = {",
    ]
    for mode in UpstreamMode:
        for protocol in AppProtocol:
            cluster = pool_cluster(PoolName("", ""), protocol, mode)
            cluster.name = ""
            lines += _row(mode.value, protocol, cluster)
    for protocol in AppProtocol:
        lines += _row("service", protocol, service_cluster("", protocol))
    return "\n".join([*lines, "}", ""])


def _row(kind: str, protocol: AppProtocol, cluster: Cluster) -> list[str]:
    text = bytes(cluster).hex()
    parts = [f'        "{text[at : at + WIDTH]}"' for at in range(0, len(text), WIDTH)]
    return [f'    ("{kind}", "{protocol.value}"): bytes.fromhex(', *parts, "    ),"]


if __name__ == "__main__":
    TARGET.write_text(source())
