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

from epp_client.envoy.own_clusters import SIDECAR_CLUSTER
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.ext_proc.replies import MARKS_NAMESPACE
from epp_client.picker.protocol import LB_NAMESPACE, SUBSET_NAMESPACE
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import ResponseMode

EXT_PROC_FILTER = "envoy.filters.http.ext_proc"

# Retry the ext_proc call if the sidecar has not begun to answer because it crashed (reset) or drains (the
# statuses, with grpcio). Envoy keeps 64 KiB of the stream for a retry.
_PICK_RETRIES = "connect-failure,refused-stream,reset,unavailable,cancelled"

_Mode = ext_proc_v3.ProcessingModeBodySendMode
_Send = ext_proc_v3.ProcessingModeHeaderSendMode


def ext_proc_filter() -> hcm_v3.HttpFilter:
    """The filter, without the pool, which routes add."""
    return hcm_v3.HttpFilter(
        name=EXT_PROC_FILTER,
        disabled=True,
        typed_config=Any.pack(
            ext_proc_v3.ExternalProcessor(
                grpc_service=core_v3.GrpcService(
                    envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER),
                    retry_policy=_pick_retries(),
                ),
                failure_mode_allow=False,
                # Envoy applies it only to directions that are not full-duplex (`skip`).
                message_timeout=timedelta(seconds=10),
                status_on_error=type_v3.HttpStatus(code=type_v3.StatusCode.ServiceUnavailable),
                processing_mode=_processing_mode(ResponseMode.RELAY),
                response_attributes=["upstream.address"],
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


def of_pool(pool: PoolName, mode: ResponseMode) -> dict[str, Any]:
    """A route's `typed_per_filter_config`, which enables the filter for `pool`. With `skip` the body of a
    response is not sent to the sidecar, which saves a message per chunk."""
    overrides = ext_proc_v3.ExtProcOverrides(
        grpc_initial_metadata=[core_v3.HeaderValue(key=POOL_KEY, value=str(pool))]
    )
    if mode is ResponseMode.SKIP:
        overrides.processing_mode = _processing_mode(mode)
    return {EXT_PROC_FILTER: Any.pack(ext_proc_v3.ExtProcPerRoute(overrides=overrides))}


def _processing_mode(mode: ResponseMode) -> ext_proc_v3.ProcessingMode:
    skip = mode is ResponseMode.SKIP
    return ext_proc_v3.ProcessingMode(
        request_header_mode=_Send.SEND,
        response_header_mode=_Send.SEND,
        request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
        response_body_mode=_Mode.NONE if skip else _Mode.FULL_DUPLEX_STREAMED,
        request_trailer_mode=_Send.SEND,
        response_trailer_mode=_Send.SKIP if skip else _Send.SEND,
    )


def _pick_retries() -> core_v3.RetryPolicy:
    return core_v3.RetryPolicy(
        retry_on=_PICK_RETRIES,
        # About 10 s in total. A single worker, or a sidecar after its drain, restarts in that time.
        num_retries=80,
        retry_back_off=core_v3.BackoffStrategy(
            base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=250)
        ),
        # A crashed worker has the fewest streams, so LEAST_REQUEST would choose it again.
        retry_host_predicate=[
            core_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=Any.pack(previous_hosts.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=5,
    )
