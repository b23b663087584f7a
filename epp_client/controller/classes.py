"""What is said of a GatewayClass. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from epp_client.gateway.statuses import Condition
from epp_client.gateway.world import Object
from epp_client.kubernetes.status.gateway_merge import ClassWanted
from epp_client.kubernetes.status.subjects import generation

BUNDLE_VERSION = "gateway.networking.k8s.io/bundle-version"
"""Annotation of the Gateway API's CRDs."""
DEFINITION_NAME = "gatewayclasses.gateway.networking.k8s.io"
"""The CRD whose annotation is read."""


def is_ours(data: Object, controller: str) -> bool:
    """Whether a GatewayClass has our controller name."""
    return bool((data.get("spec") or {}).get("controllerName") == controller)


def class_problem(data: Object) -> str:
    """Why a GatewayClass is not accepted; empty if it is."""
    if (data.get("spec") or {}).get("parametersRef") is None:
        return ""
    return (
        "spec.parametersRef is not supported;"
        " write spec.infrastructure.parametersRef into the Gateways"
    )


def bundle_version(definition: Mapping[str, Any]) -> str:
    """The version of the Gateway API that a CRD is from; empty if it does not say."""
    annotations = (definition.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(BUNDLE_VERSION) or "")


def class_wanted(data: Object, version: str | None) -> ClassWanted:
    """The conditions of a GatewayClass of ours. `version` is that of the CRDs; None: it cannot be read."""
    if problem := class_problem(data):
        accepted = Condition("Accepted", "False", "InvalidParameters", problem)
    else:
        accepted = Condition("Accepted", "True", "Accepted", "Served by epp-client")
    return ClassWanted(generation(data), (accepted, _supported(version)))


def _supported(version: str | None) -> Condition:
    kind = "SupportedVersion"
    if version is None:
        return Condition(kind, "True", kind, "The cluster serves gateway.networking.k8s.io/v1")
    if re.match(r"v1\.", version):
        return Condition(kind, "True", kind, f"The Gateway API's CRDs are {version}")
    text = f"The Gateway API's CRDs are {version or 'of an unknown version'}; v1 is supported"
    return Condition(kind, "False", "UnsupportedVersion", text)
