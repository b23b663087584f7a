"""Which sidecar `status`, `top` and `tap` ask: their common options, and the completion of names."""

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from epp_client.cli.options import ENVIRONMENT
from epp_client.errors import AdminUnreachable, Reason, SettingsError

if TYPE_CHECKING:
    from epp_client.terminal.target import Address, Pod

DEFAULT = "127.0.0.1:9902"
COMPLETION_TIMEOUT = 0.5
"""Seconds for a sidecar to answer a shell that completes a name."""
COMPLETIONS = 50
NO_ANSWER = 3
"""Exit code of `status`, `top` and `tap` if no sidecar answers."""

Admin = Annotated[
    str | None,
    typer.Option(
        "--admin",
        help=f"host:port of the sidecar's admin page. Default: {DEFAULT}.",
        envvar=f"{ENVIRONMENT}ADMIN",
    ),
]
PodName = Annotated[
    str | None,
    typer.Option(
        "--pod",
        help="Pod of the sidecar, or TYPE/NAME such as `deploy/inference-gateway`, whose first ready Pod is"
        " taken. Reached by `kubectl port-forward`, with your kubeconfig.",
    ),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of --pod. Default: kubectl's.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig, for --pod.")
]
PodPort = Annotated[
    int, typer.Option("--pod-port", help="Port of the admin page in --pod.", min=1, max=65535)
]
Up = Annotated[bool, typer.Option("--up", help="The `epp-client up` that you run on this machine.")]


def target_of(
    admin: str | None,
    pod: str | None,
    namespace: str | None,
    context: str | None,
    pod_port: int,
    up: bool,
) -> "Address | Pod":
    """The sidecar that the options name.

    Raises:
        SettingsError: they contradict each other.
        AdminUnreachable: no `epp-client up` runs, or several do.
    """
    from epp_client.terminal.target import Address, Pod

    if pod is None and (namespace or context):
        raise SettingsError(f"{'--namespace' if namespace else '--context'}: needs --pod NAME")
    if pod is not None:
        if up:
            raise SettingsError("give --pod or --up, not both")
        options = [f"--namespace={namespace}"] if namespace else []
        options += [f"--context={context}"] if context else []
        if pod.startswith("-"):
            raise SettingsError(f"--pod {pod!r} is no name of a Pod")
        return Pod(pod, options, pod_port)
    return Address(_own_gateway() if up else _reachable(admin or DEFAULT))


def _reachable(admin: str) -> str:
    from epp_client.option_values import reachable

    try:
        return reachable(admin)
    except ValueError as error:
        raise SettingsError(f"--admin {admin!r} {error}") from error


def _own_gateway() -> str:
    from epp_client.up.folder import admin_pages

    found = admin_pages()
    if not found:
        raise AdminUnreachable(
            "you run no `epp-client up` on this machine (or with another $XDG_RUNTIME_DIR); give"
            " --admin HOST:PORT"
        )
    if len(found) > 1:
        raise AdminUnreachable(
            f"you run several `epp-client up`; give --admin {' or '.join(found)}"
        )
    return found[0]


def ends_without_answer(error: AdminUnreachable) -> typer.Exit:
    """Say that no sidecar answers; returns what to raise."""
    typer.echo(f"epp-client: {error}", err=True)
    return typer.Exit(NO_ANSWER)


def pools_beginning(context: typer.Context, incomplete: str) -> list[str]:
    """Names of pools for a shell's completion. Silent if no sidecar answers at once; never starts
    kubectl."""
    from epp_client.terminal.admin import read_json

    given = context.params
    with contextlib.suppress(Exception):
        if given.get("pod"):
            return []
        target = target_of(given.get("admin"), None, None, None, 1, bool(given.get("up")))
        query = {"q": incomplete, "limit": COMPLETIONS}
        said = read_json(target.address(), "/summary", query, COMPLETION_TIMEOUT)
        names = [f"{row['namespace']}/{row['name']}" for row in said["pools"]["rows"]]
        return sorted(name for name in names if name.startswith(incomplete) and name.isprintable())
    return []


def reasons_beginning(incomplete: str) -> list[str]:
    """Reasons for a shell's completion."""
    return sorted(reason for reason in Reason if reason.startswith(incomplete))


def full_name(pool: str) -> str:
    """`pool`, if it is namespace/name or empty.

    Raises:
        SettingsError: it is neither.
    """
    namespace, slash, name = pool.partition("/")
    if pool and (not (namespace and slash and name) or "/" in name):
        raise SettingsError(f"--pool {pool!r} is not of the form namespace/name")
    return pool
