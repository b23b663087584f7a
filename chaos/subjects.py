"""The Gateway of a run, its routes, and the requests that tell which state of a route has answered. Pure.

A *subject* is one form of a request for a route that changes. Each state of a route has an edition, which
its responses carry in `x-route`. A backend that is to be told apart has its name in `x-backend`.
"""

import base64
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from epp_client.settings import DEFAULT_CONTROLLER
from testbed.stack import service

Object = dict[str, Any]
GATEWAY = "edge"
ELSEWHERE = "elsewhere"
"""Namespace of the Service that a ReferenceGrant makes referable."""
ROUTE, BACKEND = "x-route", "x-backend"
"""Response headers with the edition of a route, and the name of its backend."""
VARIANT = "x-variant"
"""Request header by which a route chooses."""
_GROUP = "gateway.networking.k8s.io"


class Port(StrEnum):
    """A listener of the Gateway."""

    PLAIN = "plain"
    TLS = "tls"
    EXTRA = "extra"
    """It comes and goes."""


class Subject(NamedTuple):
    """One form of a request."""

    headers: Mapping[str, str] = {}
    port: Port = Port.PLAIN
    pooled: bool = True
    """Whether a picker is asked."""
    path: str = ""
    """First segment of the path, if it is not the subject's name."""


HOST = "edge.example.com"
"""The server name of TLS connections."""
SUBJECTS = {
    "weights": Subject(),
    "matches": Subject({VARIANT: "red"}),
    "hostname": Subject({"host": "a.example.com"}, path="hostnames"),
    "other-hostname": Subject({"host": "b.example.com"}, path="hostnames"),
    "deleted": Subject(),
    "service": Subject(pooled=False),
    "granted": Subject(pooled=False),
    "certificate": Subject({"host": HOST}, Port.TLS),
    "listener": Subject(port=Port.EXTRA),
}
"""By name. The path of each begins with its name."""


def gateway_class(name: str) -> Object:
    """The GatewayClass that makes the Gateway ours."""
    spec = {"controllerName": DEFAULT_CONTROLLER}
    return {
        "apiVersion": f"{_GROUP}/v1", "kind": "GatewayClass", "metadata": {"name": name}, "spec": spec
    }  # fmt: skip


def gateway(
    ports: Mapping[Port, int], *, of_class: str, extra: bool = True, chains: Sequence[str] = ()
) -> Object:
    """The Gateway. `extra`: with that listener. `chains`: more hostnames of the port for TLS."""
    tls = {"certificateRefs": [{"name": "tls"}]}
    encrypted = {"port": ports[Port.TLS], "protocol": "HTTPS", "tls": tls}
    listeners: list[Object] = [
        {"name": Port.PLAIN, "port": ports[Port.PLAIN], "protocol": "HTTP"},
        {"name": Port.TLS, **encrypted},
        *({"name": f"chain-{n}", "hostname": one, **encrypted} for n, one in enumerate(chains)),
    ]
    if extra:
        listeners.append({"name": Port.EXTRA, "port": ports[Port.EXTRA], "protocol": "HTTP"})
    return _object("Gateway", GATEWAY, {"gatewayClassName": of_class, "listeners": listeners})


def secret(chain: bytes, key: bytes) -> Object:
    """The Secret of the certificate."""
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "tls", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "data": data,
    }


def pool(name: str, weight: int = 1) -> Object:
    """A backendRef to an InferencePool. Its responses carry its name."""
    return {
        "group": "inference.networking.k8s.io",
        "kind": "InferencePool",
        "name": name,
        "weight": weight,
        "filters": [_adds({BACKEND: name})],
    }


def rule(path: str, edition: str, backends: list[Object], headers: Sequence[Object] = ()) -> Object:
    """A rule for a path, which the model server does not see."""
    rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
    match: Object = {"path": {"type": "PathPrefix", "value": f"/{path}"}}
    if headers:
        match["headers"] = list(headers)
    return {
        "matches": [match],
        "filters": [{"type": "URLRewrite", "urlRewrite": rewrite}, _adds({ROUTE: edition})],
        "backendRefs": backends,
    }


def route(name: str, rules: list[Object], hostnames: Sequence[str] = ()) -> Object:
    """An HTTPRoute of all listeners of the Gateway."""
    spec = {"parentRefs": [{"name": GATEWAY}], "rules": rules, "hostnames": list(hostnames)}
    return _object("HTTPRoute", name, spec)


def pool_route(name: str) -> Object:
    """The route of a pool that nothing changes."""
    return route(name, [rule(f"default/{name}", "pool", [pool(name)])])


def weights(edition: str, first: int, second: int) -> Object:
    """Two pools with weights."""
    backends = [pool("open", first), pool("observe", second)]
    return route("weights", [rule("weights", edition, backends)])


def matches(edition: str, variant: str) -> Object:
    """A rule for requests with this variant, and one for all others."""
    wanted = {"name": VARIANT, "value": variant}
    rules = [
        rule("matches", f"{edition} {variant}", [pool("open")], [wanted]),
        rule("matches", f"{edition} others", [pool("open")]),
    ]
    return route("matches", rules)


def to_service(name: str, edition: str, namespace: str = "default") -> Object:
    """A route to a Service of the model servers."""
    to = {"name": "models", "namespace": namespace, "port": 9002}
    return route(name, [rule(name, edition, [to])])


def models(addresses: Sequence[str], namespace: str = "default") -> list[Object]:
    """The Service `models` and its EndpointSlice; `addresses` are of one port."""
    service_, slice_ = service("models", addresses[0])
    slice_["endpoints"] = [
        {"addresses": [address.rpartition(":")[0]], "conditions": {"ready": True}}
        for address in addresses
    ]
    for item in (service_, slice_):
        item["metadata"]["namespace"] = namespace
    return [service_, slice_]


def grant() -> Object:
    """Lets HTTPRoutes refer to the Service elsewhere."""
    spec = {
        "from": [{"group": _GROUP, "kind": "HTTPRoute", "namespace": "default"}],
        "to": [{"group": "", "kind": "Service"}],
    }
    made = _object("ReferenceGrant", "models", spec)
    made["apiVersion"] = f"{_GROUP}/v1beta1"
    made["metadata"]["namespace"] = ELSEWHERE
    return made


def key(item: Object) -> tuple[str, ...]:
    """Kind, namespace and name of an object."""
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def _adds(headers: Mapping[str, str]) -> Object:
    values = [{"name": name, "value": value} for name, value in headers.items()]
    return {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": values}}


def _object(kind: str, name: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": f"{_GROUP}/v1", "kind": kind, "metadata": metadata, "spec": spec}
