"""What a process imports for nothing costs CPU time at every start."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from epp_client.imports import uncollected

NOWHERE = "/nowhere"
STARTS = {
    # Both end once they have imported everything: there is no such folder, and no such descriptor.
    "control process": [
        *("epp_client", "serve", "--pools", "config/kubernetes/example", "--admin", "127.0.0.1:0"),
        *("--socket", f"{NOWHERE}/a.sock", "--xds-socket", f"{NOWHERE}/b.sock"),
    ],
    "worker": ["epp_client.workers", "99"],
}
ROOT = Path(__file__).parents[1]


SOURCES = {
    *("epp_client.manifests.source", "epp_client.endpoints.source", "epp_client.kubernetes.pools"),
    *("epp_client.gateway.resolve", "kubernetes_asyncio"),
}
"""What a source of pools needs, and who has none yet does not."""


def imported_by(*arguments: str) -> set[str]:
    """The modules that `python -m ARGUMENTS` imports until it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert done.returncode
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("process", STARTS)
def test_a_start_imports_nothing_that_it_does_not_need(process: str) -> None:
    imported = imported_by(*STARTS[process])
    assert {"structlog.dev", "epp_client.data_plane.plane"} <= imported
    assert not {name for name in imported if name.startswith("rich.")}
    assert imported.isdisjoint({"envoy_data_plane", *SOURCES})
    assert ("typer" in imported) == (process == "control process")


def test_a_command_imports_no_other_command() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['epp-client', 'status', '--admin', 'nowhere']\n"
        "from epp_client import cli\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "'nowhere' is not of the form host:port" in done.stderr
    imported = set(done.stdout.split())
    files = {f"epp_client.cli.{path.stem}" for path in (ROOT / "epp_client" / "cli").glob("*.py")}
    assert files & imported == {
        "epp_client.cli.status",
        "epp_client.cli.targets",
        "epp_client.cli.options",
    }


def test_the_docstrings_of_settings_are_read_for_the_help_alone() -> None:
    """It takes 30 ms."""
    code = (
        "import inspect, sys\n"
        "inspect.getsource = lambda _: sys.exit('the source was read')\n"
        "sys.argv = ['epp-client', *sys.argv[1:]]\n"
        "from epp_client.cli import main\n"
        "main()"
    )

    def ended(*arguments: str) -> str:
        line = [sys.executable, "-c", code, *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60).stderr

    assert "give exactly one source of pools" in ended("serve")
    assert "the source was read" in ended("serve", "--help")


def test_rich_can_still_be_imported() -> None:
    code = (
        "from epp_client.imports import structlog_without_rich as start; start(); start();"
        "import rich.console, structlog; print(structlog.dev.rich)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n"


def test_a_printed_bootstrap_takes_no_pydantic_dataclass() -> None:
    """Twice the time."""
    code = (
        "import sys\n"
        "sys.argv = ['epp-client', 'envoy-config', '--pool', 'a/b', '--route', '/=a/b']\n"
        "from epp_client import cli\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    from pydantic.dataclasses import dataclass, is_pydantic_dataclass\n"
        "    import envoy_data_plane.envoy.config.route.v3 as route_v3\n"
        "    print('checked:', is_pydantic_dataclass(route_v3.Route), dataclass.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("checked: False pydantic.dataclasses\n"), done.stderr


def test_a_shell_that_shows_the_help_of_options_has_it() -> None:
    env = {
        "_EPP_CLIENT_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "epp-client serve --pick-t",
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("epp-client")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )
    assert "Seconds from the end of the request" in " ".join(done.stdout.split()), done.stderr


def _fail_amid_imports() -> None:
    with uncollected():
        assert not gc.isenabled()
        raise ImportError


def test_the_collector_works_again_after_the_imports() -> None:
    with pytest.raises(ImportError):
        _fail_amid_imports()
    assert gc.isenabled()
