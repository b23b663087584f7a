"""The ext_proc filter through which Envoy asks the sidecar, and its settings per route. Pure.

The filter is disabled by default, so a request without a route gets Envoy's 404 without asking the sidecar.
Each route of a pool enables it and names the pool.
"""

from datetime import timedelta

import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous_hosts
import envoy_data_plane.envoy.type.v3 as type_v3
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.edge import SidecarShape
from epp_client.envoy.own_clusters import SIDECAR_CLUSTER
from epp_client.envoy.route_parts import EXT_PROC_FILTER, processing_mode
from epp_client.ext_proc.replies import MARKS_NAMESPACE
from epp_client.picker.protocol import LB_NAMESPACE, SUBSET_NAMESPACE
from epp_client.pool.settings import Modes
from epp_client.settings import UpstreamMode

# Retry the ext_proc call if the sidecar has not begun to answer because it crashed (reset) or drains (the
# statuses, with grpcio). Envoy keeps 64 KiB of the stream for a retry.
_PICK_RETRIES = "connect-failure,refused-stream,reset,unavailable,cancelled"


def ext_proc_filter(sidecar: SidecarShape) -> hcm_v3.HttpFilter:
    """The filter, without the pool, which routes add."""
    # With `override_host` the served endpoint is in the metadata, which costs less.
    original_dst = sidecar.upstream_mode is UpstreamMode.ORIGINAL_DST
    attributes = ["upstream.address"] if original_dst else []
    return hcm_v3.HttpFilter(
        name=EXT_PROC_FILTER,
        disabled=True,
        typed_config=Any.pack(
            ext_proc_v3.ExternalProcessor(
                grpc_service=core_v3.GrpcService(
                    envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER),
                    retry_policy=_pick_retries(several=sidecar.sockets > 1),
                ),
                failure_mode_allow=False,
                # Envoy applies it only to directions that are not full-duplex (`headers`, `skip`). The
                # sidecar has the deadlines: this is its longest, and the longest that Envoy accepts.
                message_timeout=timedelta(hours=1),
                status_on_error=type_v3.HttpStatus(code=type_v3.StatusCode.ServiceUnavailable),
                processing_mode=ext_proc_v3.ProcessingMode.parse(
                    processing_mode(Modes()).SerializeToString()
                ),
                response_attributes=attributes,
                metadata_options=ext_proc_v3.MetadataOptions(
                    forwarding_namespaces=ext_proc_v3.MetadataOptionsMetadataNamespaces(
                        untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]
                    ),
                    receiving_namespaces=ext_proc_v3.MetadataOptionsMetadataNamespaces(
                        untyped=[LB_NAMESPACE, MARKS_NAMESPACE]
                    ),
                ),
            )
        ),
    )


def _pick_retries(*, several: bool) -> core_v3.RetryPolicy:
    """`several`: there are other sockets to try."""
    policy = core_v3.RetryPolicy(
        retry_on=_PICK_RETRIES,
        # About 10 s in total. A single worker, or a sidecar after its drain, restarts in that time.
        num_retries=80,
        retry_back_off=core_v3.BackoffStrategy(
            base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=250)
        ),
    )
    if several:
        # A crashed worker has the fewest streams, so LEAST_REQUEST would choose it again.
        policy.retry_host_predicate = [
            core_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=Any.pack(previous_hosts.PreviousHostsPredicate()),
            )
        ]
        policy.host_selection_retry_max_attempts = 5
    return policy
