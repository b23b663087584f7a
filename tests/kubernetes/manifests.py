"""Objects as users write them, for tests: data in, nothing sent."""

from typing import Any

from testbed.kubernetes.patches import Object


def inference_pool(
    name: str,
    labels: dict[str, str] | None = None,
    ports: tuple[int, ...] = (8000,),
    picker: str | None = "picker",
    failure_mode: str = "FailClose",
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """An InferencePool that selects `app: <name>` and asks the Service `picker`, port 9002."""
    data: Object = {
        "selector": {"matchLabels": labels or {"app": name}},
        "targetPorts": [{"number": port} for port in ports],
        **spec,
    }
    if picker is not None:
        data["endpointPickerRef"] = {
            "name": picker,
            "port": {"number": 9002},
            "failureMode": failure_mode,
        }
    return {"metadata": {"name": name, "annotations": annotations or {}}, "spec": data}


def service(name: str = "picker", port: int = 9002, **spec: Any) -> Object:
    """A Service with one port, named `grpc`."""
    ports = [{"name": "grpc", "port": port, "protocol": "TCP"}]
    return {"metadata": {"name": name}, "spec": {"ports": ports, **spec}}


def endpoint_slice(
    service: str = "picker", *addresses: str, port: int = 9002, suffix: str = "a"
) -> Object:
    """The addresses behind a Service, as the EndpointSlice controller writes them."""
    return {
        "metadata": {
            "name": f"{service}-{suffix}",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }
