"""`epp-client init`: writes an example that `epp-client up` runs."""

import shlex
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from epp_client.errors import SettingsError

_FILES = ("endpoints.yaml", "simulation.py")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write to. It is created.")] = Path(
        "epp-example"
    ),
    force: Annotated[bool, typer.Option(help="Replace the files if they exist.")] = False,
) -> None:
    """Write an example pool with comments, and a simulated picker and model servers to try it with."""
    there = [str(folder / name) for name in _FILES if (folder / name).exists()]
    if there and not force:
        raise SettingsError(
            f"init: {', '.join(there)} exists: name another folder, or replace it with --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).write_bytes((files("epp_client.example") / name).read_bytes())
    except OSError as error:
        raise SettingsError(f"init: cannot write to {folder}: {error.strerror or error}") from error
    endpoints, simulation = (shlex.quote(str(folder / name)) for name in _FILES)
    typer.echo(
        f"""Wrote {endpoints} and {simulation}. Run the example:

  {_python()} {simulation} &
  epp-client up --endpoints {endpoints}

and in another terminal:

  curl -si http://127.0.0.1:8080/v1/completions -H 'content-type: application/json' """
        f"""-d '{{"model": "llama", "prompt": "Hello"}}'

Then put the addresses of your picker and model servers into {endpoints}."""
    )


def _python() -> str:
    """A command for the Python that has epp-client."""
    found = shutil.which("python")
    here = Path(sys.executable).parent
    return "python" if found and Path(found).parent == here else shlex.quote(sys.executable)
