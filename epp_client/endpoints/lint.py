"""Finds the problems of a file of endpoints, for `epp-client check`."""

from dataclasses import replace
from pathlib import Path

from epp_client.endpoints.listed import ListedPool, resolve_listed
from epp_client.endpoints.parse import is_endpoint_file
from epp_client.endpoints.source import load
from epp_client.files import STDIN, Read, read_file
from epp_client.pool.findings import Findings
from epp_client.pool.picker_host import Lookup, host_to_look_up
from epp_client.pool.problems import Problem
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.settings import EndpointSettings


def lists_endpoints(path: Path, read: Read = read_file) -> bool:
    """Whether a path is a file of endpoints, and not of Kubernetes objects."""
    if path == STDIN or path.is_dir():
        return False
    found = read(path)
    return not isinstance(found, Problem) and is_endpoint_file(found)


def lint(path: Path, defaults: PoolSettings, read: Read = read_file) -> Findings:
    """Check a file of endpoints, and what `serve --endpoints` would make of it without other options."""
    listed, problems = load(EndpointSettings(endpoints=path), defaults, read)
    return Findings(problems, {one.pool.name: _snapshot(one) for one in listed or ()})


def _snapshot(listed: ListedPool) -> PoolSnapshot:
    found = resolve_listed(listed, Lookup(), None, 0.0).snapshot
    ref = listed.pool.picker
    if ref is None or (host := host_to_look_up(ref)) is None:
        return found
    # A check looks nothing up: show the name.
    return replace(found, picker=PickerTarget((f"{host}:{ref.port}",), host))
