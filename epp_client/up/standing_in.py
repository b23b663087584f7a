"""What `epp-client standalone` takes from the Envoy that it replaces: its arguments, and the file that they
name. Pure.

The Envoy is that of llm-d's chart `llm-d-router-standalone`. The file is either ours, with options of
`epp-client up`, or the chart's bootstrap for Envoy, which names the picker.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from epp_client.errors import SettingsError

DEFAULTS: Final[Mapping[str, Any]] = {
    "listen": "0.0.0.0:8081",
    "status-listen": "0.0.0.0:19001",
    "envoy-admin": "127.0.0.1:19000",
    "picker": "127.0.0.1:9002",
    # The chart's Pod has 130 s to end: this, the end of both processes, and a reserve.
    "drain-timeout": 100,
}
"""The chart's ports and its picker."""

_CONFIG: Final = ("-c", "--config-path")
_CONCURRENCY: Final = "--concurrency"
_PICKER_CLUSTER: Final = "ext_proc"
"""Cluster of the picker in the chart's bootstrap."""
_POD: Final = re.compile(r"(.+)-(?:epp|proxy)-[a-z0-9]+-[a-z0-9]{5}")
"""Name of a Pod of the chart's Deployments, `<release>-epp` and `<release>-proxy`."""


class Arguments(NamedTuple):
    """The arguments of an Envoy."""

    config: Path | None
    """File of `-c`."""
    concurrency: str | None
    ignored: tuple[str, ...]
    """The other options, each with its value."""


def read_arguments(line: Sequence[str]) -> Arguments:
    """Read Envoy's command line, without the program. Words that begin with `-` are options; the next word
    is the value if it is not an option itself."""
    config = concurrency = None
    ignored: list[str] = []
    for option, value in _options(line):
        if option in _CONFIG and value:
            config = Path(value)
        elif option == _CONCURRENCY and value:
            concurrency = value
        else:
            ignored.append(f"{option} {value}" if value else option)
    return Arguments(config, concurrency, tuple(ignored))


def _options(line: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = list(line)
    while words:
        option, equals, value = words.pop(0).partition("=")
        if not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        yield option, value


def is_bootstrap(document: object) -> bool:
    """Whether the parsed YAML is a bootstrap of Envoy, and not ours."""
    return isinstance(document, dict) and "static_resources" in document


def settings_of(document: object, file: str) -> dict[str, Any]:
    """The settings in our file: options of `epp-client up` without the dashes.

    Raises:
        SettingsError: the file has another form.
    """
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SettingsError(
            f"{file}: is not a mapping of options of `epp-client up`, such as `listen: 0.0.0.0:8081`"
        )
    return dict(document)


def settings_of_the_chart(
    bootstrap: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The settings that the chart's own bootstrap and environment give: the InferencePool of the release,
    and where its picker is.

    Raises:
        SettingsError: the Pod's name does not tell the release.
    """
    pod, namespace = environment.get("POD_NAME", ""), environment.get("NS_NAME", "")
    release = _POD.fullmatch(pod)
    if release is None or not namespace:
        raise SettingsError(
            f"the InferencePool cannot be told from POD_NAME={pod!r} and NS_NAME={namespace!r}: install"
            " the chart with config/llm-d/values.yaml of epp-client"
        )
    return {
        "kubernetes": True,
        "pool": f"{namespace}/{release[1]}",
        **_picker(bootstrap),
    }


def _picker(bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    for cluster in bootstrap["static_resources"].get("clusters") or ():
        if cluster.get("name") != _PICKER_CLUSTER:
            continue
        try:
            [group, *_] = cluster["load_assignment"]["endpoints"]
            [endpoint, *_] = group["lb_endpoints"]
            address = endpoint["endpoint"]["address"]["socket_address"]
            picker = f"{address['address']}:{address['port_value']}"
        except (KeyError, TypeError, ValueError):
            break
        tls = "unverified" if "transport_socket" in cluster else "plaintext"
        return {"picker": picker, "picker-tls": tls}
    return {}


def as_options(settings: Mapping[str, Any]) -> list[str]:
    """The command line of `epp-client up` with these settings."""
    line: list[str] = []
    for name, value in settings.items():
        if isinstance(value, bool):
            line.append(f"--{name}" if value else f"--no-{name}")
        else:
            items = value if isinstance(value, list) else [value]
            line += [f"--{name}={item}" for item in items]
    return line
