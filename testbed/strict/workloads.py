"""The objects that the suite makes: model servers, pickers, pools, Gateways, routes. Nothing is sent.

Model servers are the echo server of Gateway API's suite where it can show what is asked. Pickers are the
lightweight one of the Inference Extension (lwepp), as in its conformance tests. The simulated model server
and picker of this project do what those cannot: stream, count bytes, break.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trustme

Object = dict[str, Any]

GATEWAY_GROUP = "gateway.networking.k8s.io"
POOL_GROUP = "inference.networking.k8s.io"
PICKER_PORT = 9002
HEALTH_PORT = 9003
ECHO_PORT, ECHO_H2C_PORT = 3000, 3001
MODEL_PORT = 8000
PORTS = {"one": (8080, 8081), "two": (8082,), "three": (8083,)}
"""The ports of the Gateways' listeners: `http` and, at `one`, `side`. All differ, so that one address can
serve all Gateways."""
SIDE_HOSTS = "*.side.example"
"""The hostname of the listener `side`."""
_DRAIN = 8
"""Seconds that a Pod of `roll` serves on after it has begun to terminate."""


@dataclass(frozen=True)
class Images:
    """The images of workloads."""

    echo: str = "gcr.io/k8s-staging-gateway-api/echo-basic:v20251106-v1.3.0-263-g47c3435c"
    lwepp: str = "registry.k8s.io/gateway-api-inference-extension/lwepp:v1.6.0"
    pause: str = "registry.k8s.io/pause:3.10"
    simulated: str = ""
    """Runs Python with `testbed` of this project (testbed/strict/Dockerfile). Empty: there is none."""


# --- what serves ---


def _meta(name: str, namespace: str, **labels: str) -> Object:
    return {"name": name, "namespace": namespace, "labels": {"app": name, **labels}}


def _deployment(
    name: str, namespace: str, replicas: int, container: Object, *, pool: str = "", **pod: Any
) -> Object:
    labels = {"app": name, **({"pool": pool} if pool else {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            # A rollout never has fewer Pods than before.
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 20, **pod},
            },
        },
    }


_IDENTITY = (
    ("POD_NAME", "metadata.name"),
    ("NAMESPACE", "metadata.namespace"),
    ("POD_IP", "status.podIP"),
)


def _environment(**more: str) -> list[Object]:
    known = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in _IDENTITY]
    return [*known, *({"name": name, "value": value} for name, value in more.items())]


def _ready(**probe: Any) -> Object:
    return {"readinessProbe": {**probe, "periodSeconds": 1}}


def echo(
    name: str, namespace: str, images: Images, replicas: int, *, drains: bool = False, **more: str
) -> Object:
    """Echo servers. With `drains` they serve on for a while after they have begun to terminate."""
    probe: Object = {"httpGet": {"path": "/health", "port": ECHO_PORT}}
    if more:
        # The gRPC mode has no page.
        probe = {"tcpSocket": {"port": ECHO_PORT}}
        more = {**more, "HTTP_PORT": str(ECHO_PORT)}
    container = {
        "name": "echo",
        "image": images.echo,
        "env": _environment(**more),
        **_ready(**probe),
    }
    if drains:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": _DRAIN}}}
    return _deployment(name, namespace, replicas, container)


def model(name: str, namespace: str, images: Images, replicas: int) -> Object:
    """Simulated model servers: streams, trailers, digests of bodies."""
    container = {
        "name": "model",
        "image": images.simulated,
        "args": ["-m", "testbed.model_server", "--listen", f"$(POD_IP):{MODEL_PORT}"],
        "env": _environment(),
        **_ready(httpGet={"path": "/health", "port": MODEL_PORT}),
    }
    return _deployment(name, namespace, replicas, container, pool="ragged")


def dead(namespace: str, images: Images) -> Object:
    """Pods that are Ready although nothing listens there."""
    return _deployment(
        "dead", namespace, 2, {"name": "pause", "image": images.pause}, pool="ragged"
    )


def lwepp(pool: str, namespace: str, images: Images) -> list[Object]:
    """A picker for a pool, and its Service `picker-<pool>`. It serves TLS with a certificate of its own."""
    name = f"picker-{pool}"
    container = {
        "name": "picker",
        "image": images.lwepp,
        "args": [
            *("--pool-name", pool, "--pool-namespace", namespace, "--zap-encoder", "json"),
            *("--grpc-port", str(PICKER_PORT), "--grpc-health-port", str(HEALTH_PORT)),
        ],
        **_ready(grpc={"port": HEALTH_PORT, "service": "inference-extension"}),
    }
    return [_deployment(name, namespace, 1, container), service(name, namespace, {"app": name})]


def simulated_picker(
    namespace: str, images: Images, certificate: Mapping[str, str]
) -> list[Object]:
    """A picker that does what a request's headers say (`testbed.dialects`), with TLS like lwepp's.
    `certificate` has tls.crt and tls.key in base64."""
    name = "picker-simulated"
    folder = "/run/tls"
    container = {
        "name": "picker",
        "image": images.simulated,
        "args": [
            *("-m", "testbed.picker", "--listen", f"0.0.0.0:{PICKER_PORT}"),
            *("--endpoints", "nobody:1", "--dialect", "pick-list"),
            *("--tls-cert", f"{folder}/tls.crt", "--tls-key", f"{folder}/tls.key"),
        ],
        "volumeMounts": [{"name": "tls", "mountPath": folder}],
        **_ready(tcpSocket={"port": PICKER_PORT}),
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": dict(certificate),
    }
    volumes = [{"name": "tls", "secret": {"secretName": name}}]
    deployment = _deployment(name, namespace, 1, container, volumes=volumes)
    return [secret, deployment, service(name, namespace, {"app": name})]


def service(name: str, namespace: str, selector: Mapping[str, str]) -> Object:
    """A picker's Service."""
    port = {"name": "grpc", "port": PICKER_PORT, "targetPort": PICKER_PORT, "appProtocol": "http2"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": dict(selector), "ports": [port]},
    }


def rights(namespace: str) -> list[Object]:
    """What pickers read: GAIE's role for its conformance tests."""
    rules = [
        {
            "apiGroups": [POOL_GROUP],
            "resources": ["inferencepools"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "strict-pickers", "namespace": namespace}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
    ]


# --- what is under test ---


def pool(
    name: str,
    namespace: str,
    picker: str,
    *,
    select: Mapping[str, str],
    port: int,
    mode: str = "FailClose",
    **spec: Any,
) -> Object:
    """An InferencePool of the Pods with these labels. `picker` is a Service."""
    reference = {"name": picker, "port": {"number": PICKER_PORT}, "failureMode": mode}
    return {
        "apiVersion": f"{POOL_GROUP}/v1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": dict(select)},
            "targetPorts": [{"number": port}],
            "endpointPickerRef": reference,
            **spec,
        },
    }


def gateway(name: str, namespace: str, of_class: str) -> Object:
    """A Gateway with the listener `http`, and a second one `side` at `one`."""
    names = ("http", "side")
    listeners: list[Object] = [
        {"name": listener, "port": port, "protocol": "HTTP"}
        for listener, port in zip(names, PORTS[name], strict=False)
    ]
    if len(listeners) > 1:
        listeners[1]["hostname"] = SIDE_HOSTS
    return {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"gatewayClassName": of_class, "listeners": listeners},
    }


def to_pool(name: str, weight: int = 1, **more: Any) -> Object:
    """A backendRef to an InferencePool."""
    return {"group": POOL_GROUP, "kind": "InferencePool", "name": name, "weight": weight, **more}


def route(
    name: str,
    namespace: str,
    host: str,
    backends: Sequence[Object],
    *,
    parents: Sequence[Object] = ({"name": "one", "sectionName": "http"},),
) -> Object:
    """An HTTPRoute of one rule for all paths of a host."""
    return {
        "apiVersion": f"{GATEWAY_GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": list(parents),
            "hostnames": [host],
            "rules": [{"backendRefs": list(backends)}],
        },
    }


def certificate() -> Mapping[str, str]:
    """A self-signed certificate for a picker: pickers' certificates are not verified."""
    issued = trustme.CA().issue_cert("picker")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    return {name: b64encode(data).decode() for name, data in (("tls.crt", chain), ("tls.key", key))}
