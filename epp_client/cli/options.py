"""Makes the options of a command from the fields of settings models, with their names, defaults and
help."""

import functools
import inspect
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperOption

from epp_client.errors import SettingsError
from epp_client.field_docs import field_docs

ENVIRONMENT: Final = "EPP_CLIENT_"
"""Prefix of the environment variable of an option: `--xds-socket` is `EPP_CLIENT_XDS_SOCKET`."""

_SPELLINGS: Final = {
    "namespaces": "--namespace",
    "named_pools": "--pool",
    "admin_hosts": "--admin-host",
    "gateway_addresses": "--gateway-address",
    "gateway_upgrades": "--gateway-upgrade",
    "routes": "--route",
    "upgrades": "--upgrade",
    # TLS of pickers.
    "mode": "--picker-tls",
    "ca_file": "--picker-ca",
    "server_name": "--picker-server-name",
    "cert_file": "--picker-cert",
    "key_file": "--picker-key",
}
"""Options that are not spelled as their fields. Repeatable options are singular."""
_EXISTING: Final = ("pools", "endpoints")
"""Paths that must exist when the command starts."""
_COMMA_SEPARATED: Final = {"strip_headers", "endpoint_target_ports"}
"""List fields that are one option with commas."""


class _Option(NamedTuple):
    """One option, and the path of its field in the models."""

    path: tuple[str, ...]
    model: type[BaseModel]
    """The model that has the field."""
    spelled: str
    parameter: inspect.Parameter
    switch: bool = False
    """Whether the option only turns an optional model on."""


def settings_as_options(
    *without: str, **models: type[BaseModel]
) -> Callable[[Callable[..., None]], Any]:
    """Decorator that gives a command an option for every field of `models` and of the models inside them,
    except for the fields `without`. The command is called with one dict of the given values for each model;
    unset options are not in it.

    An optional model (`kubernetes`) becomes a switch; its options are errors without it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = [
            option
            for name, model in models.items()
            for option in _options_of(model, (name,))
            if option.path[-1] not in without
        ]
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.name not in models]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            values = _gathered(options, given, {name: {} for name in models})
            command(**values, **{parameter.name: given[parameter.name] for parameter in own})

        parameters = [*own, *(option.parameter for option in options)]
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        called.options = options  # type: ignore[attr-defined]
        return called

    return decorate


class SettingsCommand(TyperCommand):
    """A command whose options have the docstrings of their fields as help. They are read when somebody asks
    for the help."""

    def document(self) -> None:
        """Give the options their help."""
        made: list[_Option] = getattr(self.callback, "options", [])
        docs = {one.parameter.name: field_docs(one.model).get(one.path[-1], "") for one in made}
        for parameter in self.params:
            if isinstance(parameter, TyperOption) and parameter.name in docs:
                parameter.help = " ".join(docs[parameter.name].split())

    def format_help(self, *given: Any) -> None:
        """What `--help` prints."""
        self.document()
        super().format_help(*given)

    def shell_complete(self, *given: Any) -> Any:
        """What a shell shows: zsh and fish have the help too."""
        self.document()
        return super().shell_complete(*given)


def as_arguments(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """The command line that gives these values to a command whose options are the fields of `model`."""
    line: list[str] = []
    for option in _options_of(model, ("values",)):
        value: Any = values
        for name in option.path[1:]:
            value = value.get(name) if value is not None else None
        if value is None:
            continue
        if option.switch or value is True:
            line.append(option.spelled)
        elif value is False:
            line.append(f"--no-{option.spelled.removeprefix('--')}")
        else:
            items = value if isinstance(value, list | tuple) else [value]
            line += [f"{option.spelled}={item}" for item in items]
    return line


def _options_of(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[_Option]:
    for name, field in model.model_fields.items():
        inner, optional = _model_in(field.annotation)
        if inner is None or optional:
            yield _option(name, field, path, model, switch=optional)
        if inner is not None:
            yield from _options_of(inner, (*path, name))


def _option(
    name: str, field: FieldInfo, path: tuple[str, ...], model: type[BaseModel], *, switch: bool
) -> _Option:
    path = (*path, name)
    spelled = _SPELLINGS.get(name, f"--{name.replace('_', '-')}")
    kind: Any = bool if switch else _plain(field.annotation)
    default = False if switch else inspect.Parameter.empty if field.is_required() else field.default
    several = get_origin(kind) is list
    if name in _COMMA_SEPARATED:
        kind, several, default = str, False, ",".join(field.default)
    variable = name if several else spelled.removeprefix("--").replace("-", "_")
    option = typer.Option(
        f"{spelled}/--no-{spelled.removeprefix('--')}" if default is True else spelled,
        envvar=ENVIRONMENT + variable.upper(),
        exists=name in _EXISTING,
    )
    if several:
        kind, default = kind | None, None
    parameter = inspect.Parameter(
        "_".join(path[1:]),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
    return _Option(path, model, spelled, parameter, switch)


def _plain(annotation: Any) -> Any:
    """The type for typer: without constraints, and a list for a tuple."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(arguments[0])
    if origin is tuple:
        return list[_plain(arguments[0])]  # type: ignore[misc]
    if origin in (Union, UnionType):
        return functools.reduce(lambda a, b: a | b, map(_plain, arguments))
    return annotation


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model type of a field, if it is one, and whether the field may be None."""
    kinds = get_args(annotation) or (annotation,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind, NoneType in kinds
    return None, False


def _gathered(
    options: list[_Option], given: dict[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """Nest the given values as the models are. `options` has a switch before the options of its model.

    Raises:
        SettingsError: an option of an optional model without the switch.
    """
    off: list[_Option] = []
    for option in options:
        value = given[option.parameter.name]
        if option.switch and not value:
            off.append(option)
        elif option.switch:
            _put(values, option.path, {})
        elif value is not None and value != option.parameter.default:
            for needed in off:
                if option.path[: len(needed.path)] == needed.path:
                    raise SettingsError(f"{option.spelled}: needs {needed.spelled}")
            _put(values, option.path, value)
    return values


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value
