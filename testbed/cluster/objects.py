"""Makes the Kubernetes objects of the cluster tests. Nothing is sent from here."""

from collections.abc import Mapping, Sequence
from typing import Any

from epp_client.pool.parse import API_VERSION

Object = dict[str, Any]

PICKER_PORT = 9002
"""Port of picker Services. The port of their endpoints is in the EndpointSlice."""


def namespace(name: str) -> Object:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def pod(
    name: str,
    ip: str,
    *,
    namespace: str,
    labels: Mapping[str, str] | None = None,
    ready: bool = True,
) -> Object:
    """A Pod on a missing node, with the `status` that a kubelet would write."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels or {"app": "model"}),
        },
        "spec": {"nodeName": "nowhere", "containers": [{"name": "model", "image": "model:1"}]},
        "status": status(ip, ready=ready),
    }


def status(ip: str, *, ready: bool = True) -> Object:
    """The status of a running Pod."""
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }


def service(name: str, *, namespace: str, **spec: Any) -> Object:
    """A picker's Service without a selector, so that its EndpointSlices are written by tests."""
    ports = [{"name": "grpc", "port": PICKER_PORT, "appProtocol": "kubernetes.io/h2c"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": ports, **spec},
    }


def endpoint_slice(
    name: str, service: str, address: str, *, namespace: str, ready: bool = True
) -> Object:
    """An EndpointSlice with one endpoint `ip:port`."""
    ip, _, port = address.rpartition(":")
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": int(port), "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}}],
    }


def inference_pool(
    name: str,
    ports: Sequence[int],
    *,
    namespace: str,
    picker: str | None = "picker",
    failure_mode: str = "FailClose",
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """An InferencePool over the Pods `app: model`."""
    if picker is not None:
        spec["endpointPickerRef"] = {
            "name": picker,
            "port": {"number": PICKER_PORT},
            "failureMode": failure_mode,
        }
    return {
        "apiVersion": API_VERSION,
        "kind": "InferencePool",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "selector": {"matchLabels": {"app": "model"}},
            "targetPorts": [{"number": port} for port in ports],
            **spec,
        },
    }


def gateway_class(name: str, controller: str) -> Object:
    """A GatewayClass."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": name},
        "spec": {"controllerName": controller},
    }


def gateway(name: str, *, namespace: str, of_class: str = "epp-client") -> Object:
    """A Gateway with one HTTP listener."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "gatewayClassName": of_class,
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    }


def http_route(name: str, *, namespace: str, gateway: str, pool: str) -> Object:
    """An HTTPRoute attached to a Gateway, which refers to an InferencePool."""
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": pool}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": gateway}],
            "rules": [{"backendRefs": [reference]}],
        },
    }
