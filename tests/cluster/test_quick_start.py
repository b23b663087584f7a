"""The commands of the pages for Kubernetes, on an API server of their own: each prints what its page says.

Without a container runtime no Pod runs. What waits for one, or needs docker or kind, is left out.
"""

import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from testbed.cluster.control_plane import running_control_plane
from tests.cluster.kubectl import with_programs
from tests.deploy.test_docs import ROOT
from tests.e2e.test_getting_started import steps

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

FOLDER = ROOT / "docs" / "getting-started"
OURS = ("kubectl", "helm", "epp-client", "sed")
NEEDS_PODS = ("rollout", "port-forward", "pods", "check", "describe", "logs", "exec")
NEEDS_MORE = (
    *("https://", "delete -k", "epp-client serve"),
    *("> config/kubernetes/base/envoy.yaml", "sed -i"),
)
"""The internet, a controller that ends namespaces, a socket; files of the checkout that would change."""
KINDS = "deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings,inferencepools"
MORE_KINDS = "poddisruptionbudgets,horizontalpodautoscalers,networkpolicies"


def runs_here(line: str) -> bool:
    """Whether a command of a page can be run without a container runtime."""
    words = shlex.split(line)
    return (
        words[0] in OURS
        and not any(word in NEEDS_PODS for word in words)
        and not any(text in line for text in NEEDS_MORE)
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def environment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """With the tier's programs, and an API server that has no object of a test."""
    folder = tmp_path_factory.mktemp("quick-start")
    async with running_control_plane() as plane:
        kubeconfig = plane.admin.write(folder / "kubeconfig")
        yield {**with_programs(kubeconfig, folder, "helm"), "HF_TOKEN": "a-token"}


def run(line: str, environment: dict[str, str], folder: Path) -> str:
    """What a command of a page prints. It writes into `folder`."""
    written = re.sub(r" > (?:build/)?(\S+)$", rf" > {folder}/\1", line)
    read = re.sub(r"(?<=[ ])(?:build/)?((?:pools|sidecar-patch)\.yaml)", rf"{folder}/\1", written)
    done = subprocess.run(
        ["bash", "-c", read if " > " not in line else written],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def plain(line: str) -> str:
    """Without hashes, ages and versions."""
    line = re.sub(r"-[0-9a-f]*[a-z0-9]{10}(?= created)", "-HASH", line)
    return " ".join(re.sub(r"\d[\d:.TZsmh-]*", "0", line).split())


PAGES = ("kubernetes.md", "helm.md", "model-servers.md", "existing-envoy.md")
AN_ENVOY = "kubectl -n inference apply -f config/kubernetes/overlays/existing-envoy/envoy.yaml"


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_prints_what_it_says(
    environment: dict[str, str], tmp_path: Path, page: str
) -> None:
    if page in ("helm.md", "existing-envoy.md"):
        run(AN_ENVOY, environment, tmp_path)
    compared = 0
    for lines, shown in steps((FOLDER / page).read_text()):
        here = [line for line in lines if runs_here(line)]
        said = [out for line in here for out in run(line, environment, tmp_path).splitlines()]
        if here == lines:
            missing = {plain(line) for line in shown} - {plain(line) for line in said}
            assert not missing, said
            compared += len(shown)
    assert compared or page == "model-servers.md"
    run(
        f"kubectl -n inference delete {KINDS},{MORE_KINDS} --all --wait=false",
        environment,
        tmp_path,
    )
