"""The version of the package that is installed, and whether its hot path is compiled."""

from importlib.metadata import version
from importlib.util import find_spec

VERSION = version("epp-client")
NOT_COMPILED = "the hot path is not compiled: a request takes about four times the CPU"
COMPILE = "run `pip install .` in a checkout where a C compiler (cc) is, or use the container image"
"""What to do about it."""


def hot_path_compiled() -> bool:
    """Whether what a request runs through is compiled (`HOT_PATH` in setup.py), not plain Python."""
    spec = find_spec("epp_client.relay.exchange")
    return spec is not None and not str(spec.origin).endswith(".py")
