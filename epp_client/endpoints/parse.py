"""Reads a file of endpoints, each fault with its line. Pure.

The file is that of llm-d's picker for use without Kubernetes: `endpoints`, a list of `name`, `namespace`,
`address`, `port` and `labels`. Or it has several `pools`, each with its picker, settings and endpoints.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictStr
from pydantic import ValidationError as PydanticError

from epp_client.documents.located import Located
from epp_client.endpoints.listed import (
    ListedEndpoint,
    ListedPool,
    check_of,
    listed_pool,
    picker_ref,
)
from epp_client.option_values import (
    CheckInterval,
    CheckKind,
    CheckThreshold,
    CheckTimeout,
    checked_host_port,
)
from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.inference_pool import AppProtocol, FailureMode, PoolName
from epp_client.pool.parse import NamespaceName, ObjectName, Port, settings_from
from epp_client.pool.problems import Fault, Path, Problem, Severity, dotted
from epp_client.pool.settings import ANNOTATION_PREFIX, PoolSettings
from epp_client.pool.shapes import Raw, faults_of, unknown_fields
from epp_client.settings import EndpointSettings


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _address(value: str) -> str:
    ip = canonical_ip(value)
    if ip is None:
        raise ValueError(
            f"{value!r} is not a usable IP address; write it as 10.0.0.5 or fd00::5, without a port"
        )
    return ip


class _Shape(Raw):
    model_config = ConfigDict(extra="ignore")


class EndpointShape(_Shape):
    """One endpoint."""

    name: Annotated[StrictStr, Field(min_length=1)]
    """Its name in `/pools`, unique in its namespace and pool."""
    namespace: StrictStr = "default"
    """Part of the name."""
    address: Annotated[StrictStr, AfterValidator(_address)]
    """IPv4 or IPv6 address, without brackets."""
    port: Annotated[Port, BeforeValidator(_number)] = Field(
        json_schema_extra={"type": ["integer", "string"]}
    )
    """1 to 65535, as a number or a string."""
    labels: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    """For the setting `local-pick-selector`."""
    metricsHost: StrictStr = ""  # noqa: N815
    """For llm-d's picker; ignored."""


def _off(value: Any) -> Any:
    # YAML reads `off` as false.
    return "off" if value is False else value


def _text(value: Any) -> Any:
    return str(value) if type(value) in (int, float) else value


class PoolShape(_Shape):
    """One of several pools."""

    name: ObjectName
    """Name of the pool."""
    namespace: NamespaceName = "default"
    """Namespace of the pool; Envoy's routes and the metrics have `namespace/name`."""
    picker: Annotated[StrictStr, AfterValidator(checked_host_port)] | None = None
    """`host:port` of the endpoint picker, an address or a name. Default: no picker; the sidecar chooses the
    endpoints."""
    failureMode: FailureMode = FailureMode.FAIL_CLOSE  # noqa: N815
    """What happens when the picker fails."""
    appProtocol: AppProtocol = AppProtocol.HTTP  # noqa: N815
    """Protocol from Envoy to the endpoints."""
    settings: dict[StrictStr, Annotated[StrictStr, BeforeValidator(_text)]] = Field(
        default_factory=dict
    )
    """Settings of the pool, by the names of the annotations without `epp-client.dev/`."""
    healthCheck: Annotated[CheckKind, BeforeValidator(_off)] | None = None  # noqa: N815
    """How the health of the endpoints is checked: `tcp`, `http:/PATH` or `off`. Default of it and the four
    below: the options of the command line."""
    healthCheckInterval: CheckInterval | None = None  # noqa: N815
    """Seconds between two health checks of an endpoint."""
    healthCheckTimeout: CheckTimeout | None = None  # noqa: N815
    """Seconds for one health check."""
    healthyThreshold: CheckThreshold | None = None  # noqa: N815
    """Successful health checks in a row after which an unhealthy endpoint is ready again."""
    unhealthyThreshold: CheckThreshold | None = None  # noqa: N815
    """Failed health checks in a row after which an endpoint is not ready any more."""
    endpoints: list[EndpointShape]
    """The endpoints of the pool."""


_CHECK_FIELDS: Mapping[str, str] = {
    "health_check": "healthCheck",
    "health_check_interval": "healthCheckInterval",
    "health_check_timeout": "healthCheckTimeout",
    "healthy_threshold": "healthyThreshold",
    "unhealthy_threshold": "unhealthyThreshold",
}
"""Fields of a pool by the settings that they override."""


class FileShape(_Shape):
    """A file for `--endpoints`: either `endpoints` or `pools`."""

    endpoints: list[EndpointShape] | None = None
    """The endpoints of the pool that the options describe, as in llm-d's `endpoints.yaml`."""
    pools: list[PoolShape] | None = None
    """Several pools."""


class Parsed(NamedTuple):
    """The content of a file. Both are None if the file has an error: nothing of it is used."""

    endpoints: tuple[ListedEndpoint, ...] | None
    pools: tuple[ListedPool, ...] | None
    problems: tuple[Problem, ...]


def is_endpoint_file(found: Iterable[Located | Problem]) -> bool:
    """Whether a file looks like one of endpoints, rather than of Kubernetes objects."""
    return any(
        isinstance(one, Located)
        and not {"endpoints", "pools"}.isdisjoint(one.data)
        and "kind" not in one.data
        for one in found
    )


def parse_endpoints(
    found: Sequence[Located | Problem],
    file: str,
    defaults: PoolSettings,
    options: EndpointSettings,
) -> Parsed:
    """Parse the documents of a file. `options` has the health check of pools that do not set their own."""
    problems = [
        one._replace(text=one.text.replace("a Kubernetes object", "a mapping with `endpoints`"))
        for one in found
        if isinstance(one, Problem)
    ]
    documents = [one for one in found if isinstance(one, Located)]
    if problems or len(documents) != 1:
        if not problems:
            text = f"has {len(documents)} documents; write one, with `endpoints`"
            problems.append(Problem(Severity.ERROR, text, file=file))
        return Parsed(None, None, tuple(problems))
    [document] = documents
    endpoints, pools, faults = _parse(document, defaults, options)
    placed = tuple(_placed(document, fault) for fault in faults)
    if any(fault.severity is Severity.ERROR for fault in faults):
        return Parsed(None, None, placed)
    return Parsed(endpoints, pools, placed)


def _placed(document: Located, fault: Fault) -> Problem:
    line = document.line(fault.path)
    return Problem(fault.severity, fault.text, "", dotted(fault.path), document.file, line)


_Content = tuple[tuple[ListedEndpoint, ...] | None, tuple[ListedPool, ...] | None, list[Fault]]


def _parse(document: Located, defaults: PoolSettings, options: EndpointSettings) -> _Content:
    faults = [Fault(path, "is a duplicate key") for path in document.repeated]
    if "kind" in document.data:
        text = "is a Kubernetes object; give this file to --pools"
        return None, None, [*faults, Fault(("kind",), text)]
    faults += [_unknown(path, meant) for path, meant in unknown_fields(FileShape, document.data)]
    try:
        raw = FileShape.model_validate(document.data)
    except PydanticError as error:
        return None, None, [*faults_of(error), *faults]
    if raw.pools is None:
        if raw.endpoints is None:
            return None, None, [Fault(("endpoints",), "is required, or `pools`"), *faults]
        endpoints = _endpoints(raw.endpoints, ("endpoints",), faults)
        return endpoints, None, faults
    if raw.endpoints is not None:
        faults.append(Fault(("endpoints",), "cannot be beside `pools`; write it in a pool"))
    pools: dict[PoolName, ListedPool] = {}
    for index, one in enumerate(raw.pools):
        pool = _pool(one, ("pools", index), defaults, options, faults)
        if pool.pool.name in pools:
            faults.append(Fault(("pools", index, "name"), f"{pool.pool.name} is a duplicate"))
        pools[pool.pool.name] = pool
    if not pools:
        faults.append(Fault(("pools",), "is empty", Severity.WARNING))
    return None, tuple(pools.values()), faults


def _pool(
    raw: PoolShape,
    path: Path,
    defaults: PoolSettings,
    options: EndpointSettings,
    faults: list[Fault],
) -> ListedPool:
    if raw.picker is None and "failureMode" in raw.model_fields_set:
        faults.append(Fault((*path, "failureMode"), "needs a picker"))
    annotations = {f"{ANNOTATION_PREFIX}{name}": text for name, text in raw.settings.items()}
    settings, wrong = settings_from(annotations, defaults)
    for fault in wrong:
        name = str(fault.path[-1]).removeprefix(ANNOTATION_PREFIX)
        text = fault.text.replace(ANNOTATION_PREFIX, "")
        faults.append(Fault((*path, "settings", name), text))
    given = {
        setting: value
        for setting, name in _CHECK_FIELDS.items()
        if (value := getattr(raw, name)) is not None
    }
    check = check_of(options.model_copy(update=given))
    if check is None and (unused := given.keys() - {"health_check"}):
        name = _CHECK_FIELDS[min(unused)]
        text = "has no effect: healthCheck is off"
        faults.append(Fault((*path, name), text, Severity.WARNING))
    return listed_pool(
        PoolName(raw.namespace, raw.name),
        picker_ref(raw.picker, raw.failureMode),
        raw.appProtocol,
        settings,
        _endpoints(raw.endpoints, (*path, "endpoints"), faults),
        check,
    )


def _endpoints(
    raw: Sequence[EndpointShape], path: Path, faults: list[Fault]
) -> tuple[ListedEndpoint, ...]:
    endpoints = tuple(
        ListedEndpoint(
            one.name if one.namespace == "default" else f"{one.namespace}/{one.name}",
            one.address,
            one.port,
            one.labels,
        )
        for one in raw
    )
    faults += _twice(endpoints, path)
    if not endpoints:
        faults.append(Fault(path, "is empty", Severity.WARNING))
    return endpoints


def _unknown(path: tuple[str | int, ...], meant: str) -> Fault:
    hint = f"; did you mean {meant}?" if meant else ""
    return Fault(path, f"is not a known field and is ignored{hint}", Severity.WARNING)


def _twice(endpoints: Sequence[ListedEndpoint], path: Path) -> Iterator[Fault]:
    names: set[str] = set()
    keys: set[str] = set()
    for index, one in enumerate(endpoints):
        if one.name in names:
            yield Fault((*path, index, "name"), f"{one.name} is a duplicate")
        if one.key in keys:
            yield Fault((*path, index, "address"), f"{one.key} is a duplicate")
        names.add(one.name)
        keys.add(one.key)
