"""docs/reference/command-line.md: the commands, their arguments and their options."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from typer.main import get_command

from epp_client.cli import app
from epp_client.pool.settings import EvictionMode, RequestMode, ResponseMode
from epp_client.settings import TransportName, UpstreamMode
from epp_client.tls_settings import TlsMode
from reference.text import code, table, values_table

_GROUPS: Final = (
    ("pool_defaults_tls_", "TLS to pickers"),
    ("pool_defaults_", "Defaults of the pools"),
    ("kubernetes_", "With `--kubernetes`"),
    ("endpoints_", "A pool without Kubernetes objects"),
)
"""Options whose names in the command begin with this have a table of their own."""
_VALUES: Final[tuple[tuple[str, type[StrEnum]], ...]] = (
    ("--transport", TransportName),
    ("--upstream-mode", UpstreamMode),
    ("--request-mode", RequestMode),
    ("--response-mode", ResponseMode),
    ("--eviction", EvictionMode),
    ("--picker-tls", TlsMode),
)
_HEAD = """\
# Command line

`epp-client COMMAND --help` prints the same. An option that has a variable can be set in the environment instead; an option that
may be repeated is then a list with spaces. Times are in seconds, sizes in bytes. The defaults of the pools can be
overridden for each pool by [annotations](annotations.md).

"""


def command_line() -> str:
    """Every command."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    parts = [
        _HEAD
        + "".join(
            f"- [`epp-client {n}`](#epp-client-{n}): {_first(c)}\n" for n, c in commands.items()
        )
    ]
    parts += [_command(name, command) for name, command in commands.items()]
    parts.append("## Values\n")
    parts += [f"### `{option}`\n\n{values_table(kind)}" for option, kind in _VALUES]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    command.document()
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(["epp-client", name, *(p.metavar or p.name.upper() for p in arguments)])
    parts = [
        f"## `epp-client {name}`\n\n{' '.join(command.help.split())}\n\n```\n{usage} [OPTIONS]\n```\n"
    ]
    if arguments:
        rows = [[code(p.metavar or p.name.upper()), p.help or ""] for p in arguments]
        parts.append(table(["argument", "meaning"], rows))
    rest = options
    grouped: list[tuple[str, list[Any]]] = []
    for begin, title in _GROUPS:
        grouped.append((title, [p for p in rest if p.name.startswith(begin)]))
        rest = [p for p in rest if not p.name.startswith(begin)]
    if rest:
        parts.append(_options(rest))
    for title, chosen in reversed(grouped):
        if chosen:
            parts.append(f"### {title}\n\n{_options(chosen)}")
    return "\n".join(parts)


def _options(options: Iterable[Any]) -> str:
    rows = []
    for option in options:
        names = ", ".join(map(code, [*option.opts, *option.secondary_opts]))
        variable = f" Variable: `{option.envvar}`." if option.envvar else ""
        rows.append([names, _default(option), (option.help or "") + variable])
    return table(["option", "default", "meaning"], rows)


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or value == "":
        return ""
    if value is True:
        return "on"
    text = str(value)
    return "see [annotations](annotations.md)" if text.count(",") > 2 else code(text)


def _first(command: Any) -> str:
    return " ".join(command.help.split()).split(". ")[0].rstrip(".")
