"""Finds the problems of a file of endpoints, for `epp-client check`."""

from pathlib import Path

from epp_client.endpoints.listed import Lookup, resolve_listed
from epp_client.endpoints.parse import is_endpoint_file
from epp_client.endpoints.source import load
from epp_client.files import STDIN, read_file
from epp_client.pool.findings import Findings
from epp_client.pool.problems import Problem
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings


def lists_endpoints(path: Path) -> bool:
    """Whether a path is a file of endpoints, and not of Kubernetes objects."""
    if path == STDIN or path.is_dir():
        return False
    found = read_file(path)
    return not isinstance(found, Problem) and is_endpoint_file(found)


def lint(path: Path, defaults: PoolSettings) -> Findings:
    """Check a file of endpoints, and what `serve --endpoints` would make of it without other options."""
    listed, problems = load(EndpointSettings(endpoints=path), defaults)
    snapshots = {
        one.pool.name: resolve_listed(one, Lookup(), None, 0.0).snapshot for one in listed or ()
    }
    return Findings(problems, snapshots)
