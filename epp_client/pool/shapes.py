"""Checks the types of Kubernetes objects from files, as the API server would.

Pure. After it `resolve` can read plain data without checks. The meaning of values is in `parse` and
`resolve`.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeGuard, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic import ValidationError as PydanticError

from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.problems import Fault, Path


class Raw(BaseModel):
    """A structural schema: unknown fields and nulls are dropped, wrong types are errors."""

    # A sidecar parses few of the kinds.
    model_config = ConfigDict(extra="ignore", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _prune_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            return {key: value for key, value in data.items() if value is not None}
        return data


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`; None if none is similar."""
    by_case = {one.lower(): one for one in known}
    found = get_close_matches(name.lower(), by_case, n=1, cutoff=0.75)
    return by_case[found[0]] if found else None


def explain(item: Any) -> str:
    """The text of one of pydantic's errors, in terms of YAML."""
    kind, given = item["type"], item["input"]
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    shown = repr(given)[:80]
    if kind == "enum":
        meant = (
            nearest(given, item["ctx"]["expected"].split("'")[1::2]) if _is_text(given) else None
        )
        hint = f"; write {meant}" if meant else ""
        return f"{shown} is not one of {item['ctx']['expected']}{hint}"
    if kind in ("model_type", "model_attributes_type"):
        # Every mapping of an InferencePool that could be meant has the field `number`.
        if type(given) is int:
            name = item["loc"][-1]
            before = f"{name}:" if isinstance(name, str) else "-"
            return f"{shown} is not a mapping; write `{before} {{number: {given}}}`"
        return f"{shown} is not a mapping"
    if kind == "dict_type":
        return f"{shown} is not a mapping of names to values"
    if kind == "list_type":
        return f"{shown} is not a list; begin each entry with `- `"
    if kind == "string_type":
        scalar = isinstance(given, bool | int | float)
        hint = f'; quote it: "{str(given).lower() if isinstance(given, bool) else given}"'
        return f"{shown} is not a string{hint if scalar else ''}"
    if kind == "int_type":
        hint = f"; write {given}, without quotes" if _is_text(given) and given.isdecimal() else ""
        return f"{shown} is not a whole number{hint}"
    if kind == "bool_type":
        return f"{shown} is neither true nor false"
    return f"{shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def unknown_fields(
    shape: type[BaseModel], data: Any, path: Path = ()
) -> Iterator[tuple[Path, str]]:
    """Yield the path of each field of `data` that `shape` does not have, and the most similar known name or
    ""."""
    if not isinstance(data, dict):
        return
    fields = {field.alias or name: field for name, field in shape.model_fields.items()}
    for key, value in data.items():
        known = fields.get(key)
        if known is None:
            yield (*path, str(key)), nearest(str(key), fields) or ""
            continue
        if (inner := _shape_within(known.annotation)) is None:
            continue
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield from unknown_fields(inner, entry, (*path, key, index))
        else:
            yield from unknown_fields(inner, value, (*path, key))


def _shape_within(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None` or `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_shape_within, get_args(annotation))), None)


def _an_ip(value: str) -> str:
    if value and canonical_ip(value) is None:
        raise ValueError(f"{value!r} is not a usable IP address; write it as 10.0.0.5 or fd00::5")
    return value


Ip = Annotated[StrictStr, AfterValidator(_an_ip)]


def faults_of(error: PydanticError) -> list[Fault]:
    """All errors with their paths. An invalid map key has the path of its entry."""
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
    ip: Ip = ""


class _PodStatus(Raw):
    phase: StrictStr = ""
    podIP: Ip = ""  # noqa: N815
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

SHAPED = frozenset(_SHAPES)
"""Kinds that `shape_faults` knows."""


def shape_faults(kind: str, data: Mapping[str, Any]) -> list[Fault]:
    """The faults in the types of a Pod, a Service or an EndpointSlice."""
    try:
        _SHAPES[kind].model_validate(data)
    except PydanticError as error:
        return faults_of(error)
    return []
