"""The form of Envoy's own answers to steered requests: our header and error shape. Pure.

Requests that were not steered, and answers without one of the flags, keep Envoy's answer. The sidecar
counts the answers by our header, where it sees them.
"""

from typing import Final, NamedTuple

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher_v3
from envoy_data_plane.google.protobuf import Struct

from epp_client.errors import Reason
from epp_client.ext_proc.replies import ERROR_HEADER, describe, kind_of
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE


class _Failure(NamedTuple):
    flags: tuple[str, ...]
    """Response flags of Envoy. Any of them means `reason`."""
    reason: Reason


FAILURES: Final = (
    # No connection; no host left of the list; circuit breaker; no cluster.
    _Failure(("UF", "UH", "UO", "NC"), Reason.ENDPOINT_UNREACHABLE),
    _Failure(("UT", "SI"), Reason.ENDPOINT_TIMEOUT),
    # The connection ended or was reset by either side; the answer is not HTTP.
    _Failure(("UC", "UR", "LR", "UPE"), Reason.ENDPOINT_BROKE_OFF),
)
"""The first match applies: UF can occur together with URX, or with the UC of an earlier try."""


def local_replies(subject: str) -> hcm_v3.LocalReplyConfig:
    """Replaces Envoy's answers about an endpoint. Each begins with `subject`. As in the sidecar's own
    refusals, a gRPC client gets the sentence as `grpc-message`, other clients JSON in the OpenAI shape."""
    return hcm_v3.LocalReplyConfig(
        mappers=[
            hcm_v3.ResponseMapper(
                filter=_all_of(_steered(), _flags(failure.flags), _grpc(grpc)),
                headers_to_add=[_header(ERROR_HEADER, str(failure.reason))],
                body_format_override=_grpc_body(subject, failure.reason)
                if grpc
                else _body(subject, failure.reason),
            )
            for failure in FAILURES
            for grpc in (False, True)
        ]
    )


def _all_of(*filters: accesslog_v3.AccessLogFilter) -> accesslog_v3.AccessLogFilter:
    return accesslog_v3.AccessLogFilter(and_filter=accesslog_v3.AndFilter(filters=list(filters)))


def _steered() -> accesslog_v3.AccessLogFilter:
    return accesslog_v3.AccessLogFilter(
        metadata_filter=accesslog_v3.MetadataFilter(
            matcher=matcher_v3.MetadataMatcher(
                filter=LB_NAMESPACE,
                path=[matcher_v3.MetadataMatcherPathSegment(key=DESTINATION)],
                value=matcher_v3.ValueMatcher(present_match=True),
            ),
            match_if_key_not_found=False,
        )
    )


def _flags(flags: tuple[str, ...]) -> accesslog_v3.AccessLogFilter:
    return accesslog_v3.AccessLogFilter(
        response_flag_filter=accesslog_v3.ResponseFlagFilter(flags=list(flags))
    )


def _grpc(wanted: bool) -> accesslog_v3.AccessLogFilter:
    return accesslog_v3.AccessLogFilter(
        header_filter=accesslog_v3.HeaderFilter(
            header=route_v3.HeaderMatcher(
                name="content-type",
                string_match=matcher_v3.StringMatcher(prefix="application/grpc"),
                invert_match=not wanted,
                treat_missing_header_as_empty=True,
            )
        )
    )


def _header(name: str, value: str) -> core_v3.HeaderValueOption:
    return core_v3.HeaderValueOption(
        header=core_v3.HeaderValue(key=name, value=value),
        append_action=core_v3.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _message(subject: str, reason: Reason) -> str:
    return f"{subject}: {describe(reason)} (%RESPONSE_FLAGS%)"


def _body(subject: str, reason: Reason) -> core_v3.SubstitutionFormatString:
    error = {
        "message": _message(subject, reason),
        "type": kind_of(reason),
        "code": str(reason),
        "param": None,
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return core_v3.SubstitutionFormatString(json_format=Struct.from_dict({"error": error}))


def _grpc_body(subject: str, reason: Reason) -> core_v3.SubstitutionFormatString:
    return core_v3.SubstitutionFormatString(
        text_format_source=core_v3.DataSource(inline_string=_message(subject, reason))
    )
