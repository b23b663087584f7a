"""Reads a file of endpoints, each fault with its line. Pure.

The file is that of llm-d's picker for use without Kubernetes: `endpoints`, a list of `name`, `namespace`,
`address`, `port` and `labels`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr
from pydantic import ValidationError as PydanticError

from epp_client.documents import Located
from epp_client.endpoints.listed import ListedEndpoint
from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.parse import Port
from epp_client.pool.problems import Fault, Problem, Severity, dotted
from epp_client.pool.shapes import Raw, faults_of, unknown_fields


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _address(value: str) -> str:
    ip = canonical_ip(value)
    if ip is None:
        raise ValueError(
            f"{value!r} is not a usable IP address; write it as 10.0.0.5 or fd00::5, without a port"
        )
    return ip


class _Endpoint(Raw):
    name: Annotated[StrictStr, Field(min_length=1)]
    namespace: StrictStr = "default"
    address: Annotated[StrictStr, AfterValidator(_address)]
    port: Annotated[Port, BeforeValidator(_number)]
    labels: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    # Pickers read metrics there. The sidecar does not.
    metricsHost: StrictStr = ""  # noqa: N815


class _File(Raw):
    endpoints: list[_Endpoint]


class Parsed(NamedTuple):
    """The content of a file."""

    endpoints: tuple[ListedEndpoint, ...] | None
    """None: the file has an error, and nothing of it is used."""
    problems: tuple[Problem, ...]


def is_endpoint_file(found: Iterable[Located | Problem]) -> bool:
    """Whether a file looks like one of endpoints, rather than of Kubernetes objects."""
    return any(
        isinstance(one, Located) and "endpoints" in one.data and "kind" not in one.data
        for one in found
    )


def parse_endpoints(found: Sequence[Located | Problem], file: str) -> Parsed:
    """Parse the documents of a file."""
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
        return Parsed(None, tuple(problems))
    [document] = documents
    endpoints, faults = _parse(document)
    return Parsed(endpoints, tuple(_placed(document, fault) for fault in faults))


def _placed(document: Located, fault: Fault) -> Problem:
    line = document.line(fault.path)
    return Problem(fault.severity, fault.text, "", dotted(fault.path), document.file, line)


def _parse(document: Located) -> tuple[tuple[ListedEndpoint, ...] | None, list[Fault]]:
    faults = [Fault(path, "is a duplicate key") for path in document.repeated]
    if "kind" in document.data:
        text = "is a Kubernetes object; give this file to --pools"
        return None, [*faults, Fault(("kind",), text)]
    warnings = [_unknown(path, meant) for path, meant in unknown_fields(_File, document.data)]
    try:
        raw = _File.model_validate(document.data)
    except PydanticError as error:
        return None, [*faults_of(error), *faults, *warnings]
    endpoints = tuple(
        ListedEndpoint(
            one.name if one.namespace == "default" else f"{one.namespace}/{one.name}",
            one.address,
            one.port,
            one.labels,
        )
        for one in raw.endpoints
    )
    faults += _twice(endpoints)
    if not endpoints:
        warnings.append(Fault(("endpoints",), "is empty", Severity.WARNING))
    return None if faults else endpoints, [*faults, *warnings]


def _unknown(path: tuple[str | int, ...], meant: str) -> Fault:
    hint = f"; did you mean {meant}?" if meant else ""
    return Fault(path, f"is not a known field and is ignored{hint}", Severity.WARNING)


def _twice(endpoints: Sequence[ListedEndpoint]) -> Iterator[Fault]:
    names: set[str] = set()
    keys: set[str] = set()
    for index, one in enumerate(endpoints):
        if one.name in names:
            yield Fault(("endpoints", index, "name"), f"{one.name} is a duplicate")
        if one.key in keys:
            yield Fault(("endpoints", index, "address"), f"{one.key} is a duplicate")
        names.add(one.name)
        keys.add(one.key)
