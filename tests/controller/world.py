"""Gateways, and what a server makes of what is applied."""

from pathlib import Path
from typing import Any

import epp_client.controller
from epp_client.controller.objects import Images, Plane, Template, read_template
from epp_client.controller.parameters import DEFAULTS
from epp_client.gateway.world import Object

TEMPLATE: Template = read_template(
    (Path(epp_client.controller.__file__).parent / "template.yaml").read_text()
)
IMAGES = Images("epp-client:test", "envoy:test")


def listener(port: int = 80, protocol: str = "HTTP", **more: Any) -> dict[str, Any]:
    """A listener."""
    return {"name": f"at-{port}", "port": port, "protocol": protocol, **more}


def gateway(*listeners: Object, name: str = "edge", uid: str = "uid-1", **spec: Any) -> Object:
    """A Gateway as the API server has it."""
    return {
        "metadata": {"namespace": "web", "name": name, "uid": uid, "generation": 3},
        "spec": {
            "gatewayClassName": "epp-client",
            "listeners": list(listeners or [listener()]),
            **spec,
        },
    }


def plane(data: Object | None = None, **more: Any) -> Plane:
    """A data plane."""
    more.setdefault("parameters", DEFAULTS)
    return Plane(data or gateway(), images=IMAGES, **more)


def stored(data: Object, version: str = "1", **status: Any) -> Object:
    """`data` as a server returns it."""
    metadata = {**data["metadata"], "uid": "u", "resourceVersion": version, "generation": 1}
    return {**data, "metadata": metadata, "status": status}
