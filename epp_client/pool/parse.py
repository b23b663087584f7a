"""Parses an InferencePool from plain data by the rules of the v1 API, each fault with its path.

Pure. Rules that the API server enforces (types, bounds, names) are checked too, as manifests also come from
files.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictInt, StrictStr
from pydantic import ValidationError as PydanticError

from epp_client.pool.inference_pool import (
    AppProtocol,
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.problems import Fault, Severity
from epp_client.pool.settings import ANNOTATION_PREFIX, PoolSettings
from epp_client.pool.shapes import Raw, explain, faults_of, nearest, unknown_fields
from epp_client.tls_settings import ClientTls

API_VERSION = "inference.networking.k8s.io/v1"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def _port(value: int) -> int:
    if not 1 <= value <= 65535:
        raise ValueError(f"{value} is not in 1..65535")
    return value


def _labels(value: dict[str, str]) -> dict[str, str]:
    if len(value) > 64:
        raise ValueError(f"{len(value)} entries are more than 64")
    return value


def _label_key(value: str) -> str:
    prefix, slash, name = value.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and not _DNS_NAME.fullmatch(prefix)):
        raise ValueError(f"{value!r} is not a label key")
    return value


def _label_value(value: str) -> str:
    if value and not _LABEL_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a label value")
    return value


def _label_name(value: str) -> str:
    if not _DNS_LABEL.fullmatch(value):
        raise ValueError(f"{value!r} is not a DNS label (lower case, digits, '-', at most 63)")
    return value


def _object_name(value: str) -> str:
    if not _DNS_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a DNS name (lower case, digits, '-', '.', at most 253)")
    return value


Port = Annotated[StrictInt, AfterValidator(_port)]
ObjectName = Annotated[StrictStr, AfterValidator(_object_name)]
NamespaceName = Annotated[StrictStr, AfterValidator(_label_name)]


LabelKey = Annotated[StrictStr, AfterValidator(_label_key)]
LabelValue = Annotated[StrictStr, AfterValidator(_label_value)]


class _Metadata(Raw):
    name: ObjectName
    namespace: NamespaceName = "default"
    annotations: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    generation: StrictInt = 0


class _Selector(Raw):
    matchLabels: Annotated[dict[LabelKey, LabelValue], AfterValidator(_labels)]  # noqa: N815


class _TargetPort(Raw):
    number: Port


class _PickerPort(Raw):
    number: Port


class _Picker(Raw):
    group: StrictStr = ""
    kind: StrictStr = "Service"
    name: ObjectName
    port: _PickerPort | None = None
    failureMode: FailureMode = FailureMode.FAIL_CLOSE  # noqa: N815


def _target_ports(value: list[_TargetPort]) -> list[_TargetPort]:
    if not 1 <= len(value) <= 8:
        raise ValueError(f"{len(value)} ports are not 1 to 8")
    return value


class _Spec(Raw):
    selector: _Selector
    targetPorts: Annotated[list[_TargetPort], AfterValidator(_target_ports)]  # noqa: N815
    appProtocol: AppProtocol = AppProtocol.HTTP  # noqa: N815
    endpointPickerRef: _Picker | None = None  # noqa: N815


class _Pool(Raw):
    metadata: _Metadata
    spec: _Spec


def parse_inference_pool(
    data: Mapping[str, Any], defaults: PoolSettings
) -> tuple[InferencePool | None, list[Fault]]:
    """Parse and validate one InferencePool; None if it is invalid.

    An invalid annotation of ours is a warning: the pool is served with the default instead.
    """
    version = data.get("apiVersion")
    if version != API_VERSION:
        return None, [Fault(("apiVersion",), f"{version!r} is not supported; use {API_VERSION}")]
    settings, warnings = _settings_of(data, defaults)
    faults = _across_fields(data)
    for fault in _unread(data):
        (faults if fault.severity is Severity.ERROR else warnings).append(fault)
    try:
        raw = _Pool.model_validate(data)
    except PydanticError as error:
        return None, [*faults_of(error), *faults, *warnings]
    if faults:
        return None, [*faults, *warnings]
    ref = raw.spec.endpointPickerRef
    picker = None
    if ref is not None:
        port = ref.port.number if ref.port else None
        picker = EndpointPickerRef(ref.name, port, ref.failureMode, ref.group, ref.kind)
    pool = InferencePool(
        name=PoolName(raw.metadata.namespace, raw.metadata.name),
        match_labels=tuple(sorted(raw.spec.selector.matchLabels.items())),
        target_ports=tuple(port.number for port in raw.spec.targetPorts),
        app_protocol=raw.spec.appProtocol,
        picker=picker,
        settings=settings,
        generation=raw.metadata.generation,
    )
    return pool, warnings


_RENAMED: Mapping[tuple[str | int, ...], str] = {
    ("extensionRef",): "is of v1alpha2; write endpointPickerRef",
    ("targetPortNumber",): "is of v1alpha2; write `targetPorts: [{number: …}]`",
    ("selector", "matchExpressions"): "is not supported; an InferencePool has only matchLabels",
}
MAX_UNKNOWN = 20
"""Unknown fields of one pool that are reported."""
_CRITICAL = ("selector", "endpointPickerRef")
"""A misspelt field within these changes which Pods are served, or how a failure of the picker is handled.
A misspelt field of the spec itself does too."""


def _unread(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Unknown fields: errors if they look like a misspelt critical field, else warnings."""
    for path, meant in islice(unknown_fields(_Spec, data.get("spec")), MAX_UNKNOWN):
        where = ("spec", *path)
        if (text := _RENAMED.get(path)) is not None:
            yield Fault(where, text)
            continue
        hint = f"; did you mean {meant}?" if meant else ""
        text = f"is not a field of an InferencePool and is ignored{hint}"
        critical = bool(meant) and (len(path) == 1 or path[0] in _CRITICAL)
        yield Fault(where, text, Severity.ERROR if critical else Severity.WARNING)


def _across_fields(data: Mapping[str, Any]) -> list[Fault]:
    """Rules about more than one field. They read raw data, so that an invalid field elsewhere does not hide
    them. A value of a wrong type has its own fault already."""
    match data:
        case {"spec": {"targetPorts": [*ports]}}:
            numbers = [port.get("number") if isinstance(port, dict) else None for port in ports]
        case _:
            numbers = []
    faults = [
        Fault(("spec", "targetPorts", index, "number"), f"{number} is a duplicate")
        for index, number in enumerate(numbers)
        if type(number) is int and number in numbers[:index]
    ]
    match data:
        case {"spec": {"endpointPickerRef": dict() as ref}}:
            kind = "Service" if ref.get("kind") is None else ref["kind"]
            if kind == "Service" and ref.get("port") is None:
                path = ("spec", "endpointPickerRef", "port")
                text = "is required when kind is Service: the Service's port number"
                faults.append(Fault(path, text))
    return faults


# --- annotations ---

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)?")
_SIZE = re.compile(r"([0-9]+)(Ki|Mi|Gi)?")
_SECONDS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0}
_BYTES = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def parse_duration(text: str) -> float:
    """`10`, `0.5`, `250ms`, `2s` or `1m` in seconds.

    Raises:
        ValueError: `text` has another form.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 10, 0.5, 250ms, 2s or 1m")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """`1048576` or `16Mi` in bytes.

    Raises:
        ValueError: `text` has another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 1048576 or 16Mi")
    return int(match[1]) * _BYTES[match[2]]


_PARSERS: dict[str, Any] = {
    "connect_timeout": parse_duration,
    "pick_timeout": parse_duration,
    "response_timeout": parse_duration,
    "drain_grace": parse_duration,
    "endpoint_wait": parse_duration,
    "max_retained_body": parse_size,
    "max_body_growth": parse_size,
    "request_mode": str,
    "response_mode": str,
    "eviction": str,
    "strip_headers": str,
    "local_pick_selector": str,
}
_TLS_FIELDS = {
    "tls": ("mode", str),
    "tls_ca_file": ("ca_file", Path),
    "tls_server_name": ("server_name", str),
    "tls_cert_file": ("cert_file", Path),
    "tls_key_file": ("key_file", Path),
}


def _settings_of(
    data: Mapping[str, Any], defaults: PoolSettings
) -> tuple[PoolSettings, list[Fault]]:
    match data:
        case {"metadata": {"annotations": dict() as found}}:
            texts = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}
            return settings_from(texts, defaults)
    return defaults, []


def settings_from(
    annotations: Mapping[str, str], defaults: PoolSettings
) -> tuple[PoolSettings, list[Fault]]:
    """Apply the annotations `epp-client.dev/<name>` to the defaults, one by one."""
    settings = defaults
    faults: list[Fault] = []
    for key, text in sorted(annotations.items()):
        if not key.startswith(ANNOTATION_PREFIX):
            continue
        name = key.removeprefix(ANNOTATION_PREFIX).replace("-", "_")
        path = ("metadata", "annotations", key)
        try:
            settings = _apply(settings, name, text)
        except PydanticError as error:
            faults.append(Fault(path, explain(error.errors()[0]), Severity.WARNING))
        except ValueError as error:
            faults.append(Fault(path, str(error), Severity.WARNING))
    if (settings.tls.cert_file is None) != (settings.tls.key_file is None):
        tls = {"cert_file": defaults.tls.cert_file, "key_file": defaults.tls.key_file}
        settings = settings.model_copy(update={"tls": settings.tls.model_copy(update=tls)})
        path = ("metadata", "annotations", f"{ANNOTATION_PREFIX}tls-cert-file")
        text = "and tls-key-file go together; neither is used"
        faults.append(Fault(path, text, Severity.WARNING))
    return settings, faults


def _apply(settings: PoolSettings, name: str, text: str) -> PoolSettings:
    if name in _PARSERS:
        changed = settings.model_dump() | {name: _PARSERS[name](text)}
        return PoolSettings.model_validate(changed)
    if name in _TLS_FIELDS:
        field, parse = _TLS_FIELDS[name]
        tls = ClientTls.model_validate(settings.tls.model_dump() | {field: parse(text)})
        return settings.model_copy(update={"tls": tls})
    known = sorted(n.replace("_", "-") for n in [*_PARSERS, *_TLS_FIELDS])
    meant = nearest(name.replace("_", "-"), known)
    hint = f"did you mean {ANNOTATION_PREFIX}{meant}? There are" if meant else "there are"
    raise ValueError(f"no such setting; {hint} {', '.join(known)}")
