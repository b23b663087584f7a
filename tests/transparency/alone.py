"""Envoy with the picker alone, configured as the standalone charts of llm-d and GAIE do it. Pure.

`override_host` is what Gateway implementations configure in the place of the charts' ORIGINAL_DST.
"""

from collections.abc import Sequence
from typing import Any

from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED, SUBSET_NAMESPACE
from epp_client.pool.inference_pool import AppProtocol
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.settings import UpstreamMode

_TYPES = "type.googleapis.com/envoy.extensions"


def bootstrap_alone(
    listener: tuple[str, int],
    picker: str,
    endpoints: Sequence[str],
    protocol: AppProtocol,
    mode: UpstreamMode,
    modes: Modes,
) -> dict[str, Any]:
    """A bootstrap; `listener` is (host, port), `picker` and `endpoints` are `ip:port`."""
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {
            "listeners": [_listener(listener, mode, modes)],
            "clusters": [
                {
                    "name": "models",
                    "connect_timeout": "1000s",
                    "circuit_breakers": _RAISED,
                    **_protocol(protocol),
                    **_balanced(mode, endpoints),
                },
                {
                    "name": "ext_proc",
                    "type": "STATIC",
                    "connect_timeout": "86400s",
                    "lb_policy": "LEAST_REQUEST",
                    "circuit_breakers": _RAISED,
                    **_protocol(AppProtocol.H2C),
                    **_assigned("ext_proc", [picker]),
                },
            ],
        },
    }


_RAISED = {
    "thresholds": [
        {"max_connections": 40_000, "max_pending_requests": 40_000, "max_requests": 40_000}
    ]
}


def _listener(address: tuple[str, int], mode: UpstreamMode, modes: Modes) -> dict[str, Any]:
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "models", "timeout": "86400s", "idle_timeout": "86400s"},
    }
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http-8081",
        "route_config": {
            "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": [route]}]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": _ext_proc(mode, modes)},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
    }
    return {
        "name": "vllm",
        "address": _address(f"{address[0]}:{address[1]}"),
        "per_connection_buffer_limit_bytes": 32_768,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _ext_proc(mode: UpstreamMode, modes: Modes) -> dict[str, Any]:
    config: dict[str, Any] = {
        "@type": f"{_TYPES}.filters.http.ext_proc.v3.ExternalProcessor",
        "failure_mode_allow": True,
        "grpc_service": {"envoy_grpc": {"cluster_name": "ext_proc"}, "timeout": "10s"},
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "FULL_DUPLEX_STREAMED",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "request_trailer_mode": "SEND",
            "response_trailer_mode": "SEND",
        },
        "message_timeout": "1000s",
    }
    if modes.request is RequestMode.HEADERS:
        config["processing_mode"] |= {"request_body_mode": "NONE", "request_trailer_mode": "SKIP"}
    if modes.response is not ResponseMode.RELAY:
        config["processing_mode"] |= {
            "response_header_mode": "SKIP",
            "response_body_mode": "NONE",
            "response_trailer_mode": "SKIP",
        }
    if mode is UpstreamMode.OVERRIDE_HOST:
        config["metadata_options"] = {
            "forwarding_namespaces": {"untyped": [LB_NAMESPACE, SUBSET_NAMESPACE]},
            "receiving_namespaces": {"untyped": [LB_NAMESPACE]},
        }
    return config


def _balanced(mode: UpstreamMode, endpoints: Sequence[str]) -> dict[str, Any]:
    if mode is UpstreamMode.ORIGINAL_DST:
        return {
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
        }
    policy = {
        "@type": f"{_TYPES}.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [{"header": DESTINATION}, {"metadata": _key(DESTINATION)}],
        "selected_host_key": _key(SERVED),
        "fallback_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.round_robin",
                        "typed_config": {
                            "@type": f"{_TYPES}.load_balancing_policies.round_robin.v3.RoundRobin"
                        },
                    }
                }
            ]
        },
    }
    return {
        "type": "STATIC",
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.override_host",
                        "typed_config": policy,
                    }
                }
            ]
        },
        **_assigned("models", endpoints),
    }


def _key(name: str) -> dict[str, Any]:
    return {"key": LB_NAMESPACE, "path": [{"key": name}]}


def _protocol(protocol: AppProtocol) -> dict[str, Any]:
    if protocol is AppProtocol.HTTP:
        return {}
    options = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {
                "initial_stream_window_size": 65_536,
                "initial_connection_window_size": 1_048_576,
            }
        },
    }
    return {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    }


def _assigned(cluster: str, endpoints: Sequence[str]) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": _address(endpoint)}} for endpoint in endpoints]
    return {"load_assignment": {"cluster_name": cluster, "endpoints": [{"lb_endpoints": hosts}]}}


def _address(endpoint: str) -> dict[str, Any]:
    host, _, port = endpoint.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
