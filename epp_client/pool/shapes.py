"""The shape of Kubernetes objects as the API server would insist on it, for objects out of files.

Pure. Says where an object has the wrong types, so that `resolve` can walk plain data without asking.
What the values mean lives in `parse` and `resolve`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic import ValidationError as PydanticError

from epp_client.pool.problems import Fault


class Raw(BaseModel):
    """A structural schema: unknown fields and nulls are pruned, wrong types are errors."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _prune_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            return {key: value for key, value in data.items() if value is not None}
        return data


def explain(item: Any) -> str:
    """One of pydantic's errors, in words that need no pydantic to understand."""
    if item["type"] == "missing":
        return "is required"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    shown = repr(item["input"])[:80]
    if item["type"] == "enum":
        return f"{shown} is not one of {item['ctx']['expected']}"
    return f"{shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def faults_of(error: PydanticError) -> list[Fault]:
    """Every error with its path; a bad map key is located at its entry."""
    return [
        Fault(tuple(part for part in item["loc"] if part != "[key]"), explain(item))
        for item in error.errors(include_url=False)
    ]


class _Metadata(Raw):
    name: StrictStr
    namespace: StrictStr = "default"
    labels: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    annotations: dict[StrictStr, StrictStr] = Field(default_factory=dict)


class _Object(Raw):
    metadata: _Metadata


class _Condition(Raw):
    type: StrictStr
    status: StrictStr


class _PodIp(Raw):
    ip: StrictStr = ""


class _PodStatus(Raw):
    phase: StrictStr = ""
    podIP: StrictStr = ""  # noqa: N815
    podIPs: list[_PodIp] = Field(default_factory=list)  # noqa: N815
    conditions: list[_Condition] = Field(default_factory=list)


class _ContainerPort(Raw):
    name: StrictStr = ""
    containerPort: StrictInt  # noqa: N815
    protocol: StrictStr = "TCP"


class _Container(Raw):
    restartPolicy: StrictStr = ""  # noqa: N815
    ports: list[_ContainerPort] = Field(default_factory=list)


class _PodSpec(Raw):
    containers: list[_Container] = Field(default_factory=list)
    initContainers: list[_Container] = Field(default_factory=list)  # noqa: N815


class _Pod(_Object):
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _ServicePort(Raw):
    name: StrictStr = ""
    port: StrictInt
    protocol: StrictStr = "TCP"
    targetPort: StrictInt | StrictStr | None = None  # noqa: N815


class _ServiceSpec(Raw):
    type: StrictStr = ""
    selector: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    ports: list[_ServicePort] = Field(default_factory=list)


class _Service(_Object):
    spec: _ServiceSpec = _ServiceSpec()


class _SlicePort(Raw):
    name: StrictStr = ""
    port: StrictInt | None = None
    protocol: StrictStr = "TCP"


class _SliceConditions(Raw):
    ready: StrictBool | None = None
    serving: StrictBool | None = None
    terminating: StrictBool | None = None


class _SliceEndpoint(Raw):
    addresses: list[StrictStr] = Field(default_factory=list)
    conditions: _SliceConditions = _SliceConditions()


class _EndpointSlice(_Object):
    ports: list[_SlicePort] = Field(default_factory=list)
    endpoints: list[_SliceEndpoint] = Field(default_factory=list)


_SHAPES: Mapping[str, type[Raw]] = {
    "Pod": _Pod,
    "Service": _Service,
    "EndpointSlice": _EndpointSlice,
}


def shape_faults(kind: str, data: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the shape of a Pod, a Service or an EndpointSlice; empty when all is well."""
    try:
        _SHAPES[kind].model_validate(data)
    except PydanticError as error:
        return faults_of(error)
    return []
