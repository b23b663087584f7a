"""Writes epp_client/envoy/pb/pool_clusters.py: the Clusters of pools, serialized without their names."""

from pathlib import Path

from epp_client.envoy.clusters import pool_cluster
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.settings import UpstreamMode

TARGET = Path(__file__).parents[1] / "epp_client" / "envoy" / "pb" / "pool_clusters.py"
WIDTH = 80


def source() -> str:
    """The module's source."""
    lines = [
        '"""Written by `make protos`: Envoy\'s Clusters of pools, see `envoy.pool_clusters`."""',
        "",
        "NAMELESS = {",
    ]
    for mode in UpstreamMode:
        for protocol in AppProtocol:
            cluster = pool_cluster(PoolName("", ""), protocol, mode)
            cluster.name = ""
            text = bytes(cluster).hex()
            lines.append(f'    ("{mode.value}", "{protocol.value}"): bytes.fromhex(')
            lines += [f'        "{text[at : at + WIDTH]}"' for at in range(0, len(text), WIDTH)]
            lines.append("    ),")
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    TARGET.write_text(source())
