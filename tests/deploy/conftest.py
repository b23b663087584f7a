"""The Dockerfile's stages, carried out once for all tests."""

import os
import shutil

import pytest

from tests.deploy.dockerfile import OFFLINE, PATHS, ROOT, STAGES, Build, CommandFailed


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The build stage, carried out: downloads (or the pip cache), and a minute of compiling."""
    if os.environ.get("EPP_CLIENT_TEST_IMAGE") != "1":
        pytest.skip("`make test-image` carries out the Dockerfile's build: a minute of compiling")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc), which the build stage has")
    build = Build(ROOT, tmp_path_factory.mktemp("image"), PATHS)
    try:
        build.run(STAGES["build"])
    except CommandFailed as failure:
        if any(sign in str(failure) for sign in OFFLINE):
            pytest.skip("the package index is out of reach")
        raise
    return build
