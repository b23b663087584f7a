"""`make release VERSION=x.y.z`: check, state the version, build and try the wheels, commit and tag.

Nothing is uploaded: how to publish is printed at the end. When a step fails the files are as before.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

STATED: dict[str, str] = {
    "pyproject.toml": r'\nversion = "',
    "Dockerfile": r'--tag epp-client(?:-standalone)?:|org\.opencontainers\.image\.version="',
    "config/helm/epp-client/Chart.yaml": r'\nversion: |\nappVersion: "',
    "config/kubernetes/base/kustomization.yaml": "newTag: ",
    "config/kubernetes/controller/kustomization.yaml": "newTag: ",
    "config/kubernetes/overlays/existing-envoy/kustomization.yaml": "newTag: ",
    "config/llm-d/values.yaml": "epp-client-standalone:",
    "docs/getting-started/existing-envoy.md": "epp-client:",
    "docs/getting-started/gateway-api.md": "epp-client:",
    "docs/getting-started/helm.md": "epp-client:",
    "docs/getting-started/kubernetes.md": "epp-client:",
    "docs/getting-started/llm-d-chart.md": "epp-client-standalone:",
    "docs/getting-started/this-machine.md": r"\nepp-client ",
}
"""Each file that states the version, and a pattern of what stands before it. pyproject.toml decides."""

NUMBER = r"\d+\.\d+\.\d+"

PUBLISH = """\
Released {tag} in this clone. To publish it:
  git push origin HEAD {tag}
  .venv/bin/twine upload build/dist/epp_client-{version}.tar.gz build/dist/*-py3-none-any.whl
  docker build --tag epp-client:{version} .
  docker build --target standalone --tag epp-client-standalone:{version} .
  helm package --destination build/dist config/helm/epp-client
The compiled wheel fits this Python and this kind of machine; an index does not take it."""


def git(*arguments: str) -> str:
    """Standard output; a failure ends the release."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def number(version: str) -> tuple[int, ...]:
    """To compare two versions."""
    return tuple(map(int, version.split(".")))


def refusal(version: str) -> str | None:
    """Why this version cannot be released from this tree."""
    if not re.fullmatch(NUMBER, version):
        return f"VERSION has to be three numbers, such as 0.2.0, not {version!r}"
    today = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if number(version) < number(today):
        return f"{version} is older than {today}, which pyproject.toml has"
    if git("tag", "--list", f"v{version}"):
        return f"the tag v{version} is there already"
    if changed := git("status", "--porcelain"):
        return f"commit or stash these first:\n{changed}"
    heading = rf"(?ms)^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$(.*?)(?=^## |\Z)"
    section = re.search(heading, (ROOT / "CHANGELOG.md").read_text())
    if section is None:
        return f"CHANGELOG.md has no section `## {version} - year-month-day`"
    if not re.search(r"^- ", section[1], re.M):
        return f"the section of {version} in CHANGELOG.md is empty"
    return None


def state(version: str) -> None:
    """Write the version where it is stated."""
    for name, before in STATED.items():
        path = ROOT / name
        text, times = re.subn(rf"({before}){NUMBER}", rf"\g<1>{version}", path.read_text())
        if not times:
            sys.exit(f"{name} states no version")
        path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("version")
    version = parser.parse_args().version
    if (why := refusal(version)) is not None:
        sys.exit(f"Not released: {why}")
    tag = f"v{version}"
    try:
        state(version)
        subprocess.run([sys.executable, str(ROOT / ".ci" / "wheels.py")], check=True, timeout=1800)
        git("add", *STATED)
        if git("diff", "--cached", "--name-only"):
            git("commit", "--quiet", "--message", f"Release {version}")
        git("tag", "--annotate", tag, "--message", f"epp-client {version}")
    except (SystemExit, subprocess.SubprocessError, KeyboardInterrupt):
        git("checkout", "--quiet", "HEAD", "--", *STATED)
        raise
    print(PUBLISH.format(tag=tag, version=version))


if __name__ == "__main__":
    main()
