"""What is said of a GatewayClass. Pure."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from epp_client.gateway.features import SUPPORTED
from epp_client.gateway.statuses import Condition
from epp_client.gateway.world import Object
from epp_client.kubernetes.status.gateway_merge import ClassWanted
from epp_client.kubernetes.status.subjects import NewStatus, generation

BUNDLE_VERSION = "gateway.networking.k8s.io/bundle-version"
"""Annotation of the Gateway API's CRDs."""
DEFINITION_NAME = "gatewayclasses.gateway.networking.k8s.io"
"""The CRD whose annotation is read."""

_FEATURES_SINCE = 4
"""The minor version of the Gateway API whose standard channel has the field."""


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


class RunClassWanted(NamedTuple):
    """The status of a GatewayClass of ours."""

    wanted: ClassWanted
    features: tuple[str, ...]
    """For `status.supportedFeatures`; empty where the CRD does not have it."""

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.wanted.generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        found = self.wanted.merged(data, now)
        features = [{"name": name} for name in self.features]
        before = (data.get("status") or {}).get("supportedFeatures") or []
        if not features or before == features:
            return found
        status = {**found.status, "supportedFeatures": features}
        return found._replace(status=status, changed=True)

    def summary(self) -> str:
        """See Wanted."""
        return self.wanted.summary()


def class_wanted(data: Object, version: str | None) -> RunClassWanted:
    """The conditions of a GatewayClass of ours. `version` is that of the CRDs; None: it cannot be read."""
    if problem := class_problem(data):
        accepted = Condition("Accepted", "False", "InvalidParameters", problem)
    else:
        accepted = Condition("Accepted", "True", "Accepted", "Served by epp-client")
    conditions = ClassWanted(generation(data), (accepted, _supported(version)))
    return RunClassWanted(conditions, SUPPORTED if _has_features(version) else ())


def _has_features(version: str | None) -> bool:
    """Whether the CRD of GatewayClasses has `status.supportedFeatures`: an older one would drop it, and it
    would be written again and again."""
    found = re.match(r"v1\.(\d+)", version or "")
    return found is not None and int(found[1]) >= _FEATURES_SINCE


def _supported(version: str | None) -> Condition:
    kind = "SupportedVersion"
    if version is None:
        return Condition(kind, "True", kind, "The cluster serves gateway.networking.k8s.io/v1")
    if re.match(r"v1\.", version):
        return Condition(kind, "True", kind, f"The Gateway API's CRDs are {version}")
    text = f"The Gateway API's CRDs are {version or 'of an unknown version'}; v1 is supported"
    return Condition(kind, "False", "UnsupportedVersion", text)
