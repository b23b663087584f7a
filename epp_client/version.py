"""The version of the package that is installed. pyproject.toml states it."""

from importlib.metadata import version

VERSION = version("epp-client")
