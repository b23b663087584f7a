"""`make release` in a copy of the repository. A stub stands for the build of the wheels."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = (
    ".ci/release.py",
    "CHANGELOG.md",
    "Dockerfile",
    "config/helm/epp-client/Chart.yaml",
    "config/kubernetes/base/kustomization.yaml",
    "config/kubernetes/controller/kustomization.yaml",
    "config/kubernetes/overlays/existing-envoy/kustomization.yaml",
    "config/llm-d/values.yaml",
    "docs/getting-started/existing-envoy.md",
    "docs/getting-started/gateway-api.md",
    "docs/getting-started/helm.md",
    "docs/getting-started/kubernetes.md",
    "docs/getting-started/llm-d-chart.md",
    "docs/getting-started/this-machine.md",
    "pyproject.toml",
)
WHEELS = "from pathlib import Path; print('BUILT', Path('pyproject.toml').read_text())"
SECTION = "## 9.1.0 - 2030-01-02\n\n### Added\n\n- A thing.\n\n"


class Copy:
    """A repository with what a release reads and writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FILES:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        (root / ".ci" / "wheels.py").write_text(WHEELS)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("config", "user.name", "somebody")
        self.git("config", "user.email", "somebody@example.com")
        self.commit("all")

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def changelog(self, section: str) -> None:
        """Put it before the newest section."""
        path = self.root / "CHANGELOG.md"
        before, mark, after = path.read_text().partition("\n## ")
        path.write_text(before + "\n" + section + mark.lstrip("\n") + after)

    def release(self, version: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ".ci/release.py", version]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=30)

    def version(self) -> str:
        project = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        return str(project["version"])


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


@pytest.fixture
def ready(copy: Copy) -> Copy:
    copy.changelog(SECTION)
    copy.commit("changelog")
    return copy


def test_a_release_is_a_commit_with_a_tag_and_states_its_version_everywhere(ready: Copy) -> None:
    done = ready.release("9.1.0")
    assert done.returncode == 0, done.stderr
    assert "BUILT" in done.stdout, "built before it is tagged"
    assert 'version = "9.1.0"' in done.stdout, "built with its version"
    assert "twine upload build/dist/epp_client-9.1.0.tar.gz" in done.stdout
    assert "git push origin HEAD v9.1.0" in done.stdout
    assert ready.git("log", "-1", "--format=%s") == "Release 9.1.0"
    assert ready.git("rev-parse", "v9.1.0^{commit}") == ready.git("rev-parse", "HEAD")
    assert ready.git("status", "--porcelain") == ""
    assert ready.version() == "9.1.0"
    old = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ready.git("diff", "--name-only", "HEAD~1").splitlines():
        text = (ready.root / name).read_text()
        assert "9.1.0" in text
        assert not re.search(rf'(epp-client:|newTag: |version(=| = )"){re.escape(old)}', text), name


def test_a_version_that_is_stated_already_is_only_tagged(ready: Copy) -> None:
    assert ready.release("9.1.0").returncode == 0
    ready.git("tag", "--delete", "v9.1.0")
    before = ready.git("rev-parse", "HEAD")
    assert ready.release("9.1.0").returncode == 0
    assert ready.git("rev-parse", "v9.1.0^{commit}", "HEAD").split() == [before, before]


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("", "three numbers"),
        ("9.1", "three numbers"),
        ("v9.1.0", "three numbers"),
        ("0.0.1", "is older than"),
        ("9.2.0", "no section `## 9.2.0 - year-month-day`"),
    ],
)
def test_what_is_no_release_changes_nothing(ready: Copy, version: str, why: str) -> None:
    before = ready.git("rev-parse", "HEAD")
    done = ready.release(version)
    assert done.returncode == 1
    assert why in done.stderr
    assert ready.git("rev-parse", "HEAD") == before
    assert ready.git("status", "--porcelain") == ready.git("tag") == ""


@pytest.mark.parametrize("section", ["## 9.1.0\n\n- A thing.\n\n", "## 9.1.0 - 2030-01-02\n\n"])
def test_a_section_has_a_date_and_says_something(copy: Copy, section: str) -> None:
    copy.changelog(section)
    copy.commit("changelog")
    assert copy.release("9.1.0").returncode == 1


def test_the_tree_has_to_be_clean(ready: Copy) -> None:
    (ready.root / "new.py").touch()
    done = ready.release("9.1.0")
    assert (done.returncode, "new.py" in done.stderr) == (1, True)


def test_a_version_is_released_once(ready: Copy) -> None:
    assert ready.release("9.1.0").returncode == 0
    done = ready.release("9.1.0")
    assert (done.returncode, "v9.1.0 is there already" in done.stderr) == (1, True)


def test_wheels_that_cannot_be_built_leave_the_files_as_they_were(ready: Copy) -> None:
    (ready.root / ".ci" / "wheels.py").write_text("raise SystemExit('no')")
    ready.commit("broken")
    before = ready.git("rev-parse", "HEAD")
    assert ready.release("9.1.0").returncode == 1
    assert ready.git("rev-parse", "HEAD") == before
    assert ready.git("status", "--porcelain") == ready.git("tag") == ""
