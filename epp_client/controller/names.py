"""Names and labels of the objects of a Gateway. Pure.

`<gateway>-<class>` is the name that GEP-1762 of the Gateway API gives to them.
"""

from collections.abc import Mapping
from hashlib import sha256

from epp_client.gateway.table import GatewayName

GATEWAY_LABEL = "gateway.networking.k8s.io/gateway-name"
CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
NAMESPACE_LABEL = "epp-client.dev/gateway-namespace"
"""The namespace of the Gateway: some objects are in another one."""
MANAGER = "epp-client-controller"
"""Value of `MANAGED_LABEL`, and the manager of the fields that we apply."""
READERS = "epp-client-gateway"
"""The ClusterRole of all data planes, and its ClusterRoleBinding: config/kubernetes/controller has both."""

MAX_LABEL = 63
"""Characters of a name of a Service and of a value of a label."""
_DIGEST = 8


def bounded(text: str, most: int = MAX_LABEL) -> str:
    """`text` if it is short enough, else its beginning with a digest of all of it."""
    if len(text) <= most:
        return text
    digest = sha256(text.encode()).hexdigest()[:_DIGEST]
    return f"{text[: most - _DIGEST - 1].rstrip('-.')}-{digest}"


def object_name(gateway: str, gateway_class: str) -> str:
    """The name of the objects of a Gateway in its own namespace. Names of Gateways and classes may have
    dots, and a Service's may not."""
    name = f"{gateway}-{gateway_class}"
    plain = name.replace(".", "-")
    if plain != name or not plain[0].isalpha():
        # Distinct from that of a Gateway without dots, and a Service's name begins with a letter.
        digest = sha256(name.encode()).hexdigest()[:_DIGEST]
        plain = f"{plain if plain[0].isalpha() else f'g-{plain}'}-{digest}"
    return bounded(plain)


def foreign_name(gateway: GatewayName, gateway_class: str) -> str:
    """The name of the Role and the RoleBinding of a Gateway in another namespace."""
    return bounded(f"{object_name(gateway.name, gateway_class)}-{gateway.namespace}", 253)


def labels_of(gateway: GatewayName, gateway_class: str) -> Mapping[str, str]:
    """The labels of every object of a Gateway."""
    return {
        "app.kubernetes.io/name": READERS,
        "app.kubernetes.io/part-of": "epp-client",
        MANAGED_LABEL: MANAGER,
        GATEWAY_LABEL: bounded(gateway.name),
        CLASS_LABEL: bounded(gateway_class),
        NAMESPACE_LABEL: gateway.namespace,
    }


def selector_of(gateway: GatewayName) -> Mapping[str, str]:
    """The labels that select the Pods of a Gateway. A Deployment's selector cannot be changed."""
    return {"app.kubernetes.io/name": READERS, GATEWAY_LABEL: bounded(gateway.name)}
