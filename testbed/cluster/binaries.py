"""The programs and CRDs of the cluster tests, found or built once from Go modules into a cache.

Versions are pinned by the go.mod files under `go/`: one for etcd, kube-apiserver and kustomize, one each
for kube-controller-manager, kubectl and helm, one for each real picker, as those are versions of one
module, and one for the conformance suites and their echo server. A program of our own has its source beside
its go.mod. Nothing is started here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from testbed.build_cache import Unavailable, cache_folder, locked

MODULES = Path(__file__).parent / "go"
GAIE = "sigs.k8s.io/gateway-api-inference-extension"
GATEWAY_API = "sigs.k8s.io/gateway-api"
PROGRAMS = {
    "etcd": ("kubernetes", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kustomize": ("kubernetes", "sigs.k8s.io/kustomize/kustomize/v5"),
    "helm": ("helm", "helm.sh/helm/v3/cmd/helm"),
    "lwepp": ("lwepp", f"{GAIE}/cmd/lwepp"),
    "epp": ("epp", f"{GAIE}/cmd/epp"),
    "epp-1.2": ("epp-1.2", f"{GAIE}/cmd/epp"),
    "kube-controller-manager": (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    "kubectl": ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    "port-forward": ("port-forward", "."),
    "otel-collector": ("otel-collector", "."),
    "echo-basic": ("conformance", f"{GATEWAY_API}/conformance/echo-basic"),
    "gaie.test": ("conformance", f"{GAIE}/conformance"),
    "gateway-api.test": ("conformance", f"{GATEWAY_API}/conformance"),
}
"""The directory under `go/` and the package of each program: its main package, or that of its tests."""
TIER = (
    *("etcd", "kube-apiserver", "kubectl", "kustomize", "helm"),
    *("lwepp", "epp", "epp-1.2", "otel-collector"),
)
"""What the tests against a real API server need, and those of traces."""
MACHINE = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "port-forward"),
    *("lwepp", "echo-basic"),
)
"""What a cluster of one machine needs (`testbed.cluster.machine`)."""
CRDS = {
    f"{GAIE}@v1.6.0": ("config/crd/bases/inference.networking.k8s.io_inferencepools.yaml",),
    # The version that GAIE's suite v1.6.0 is linked with: the suites compare.
    f"{GATEWAY_API}@v1.6.1": tuple(
        f"config/crd/standard/gateway.networking.k8s.io_{kinds}.yaml"
        for kinds in (
            "backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "httproutes",
            "listenersets", "referencegrants", "tcproutes", "tlsroutes", "udproutes",
        )
    ),
}  # fmt: skip
"""By module and version. The standard channel, and InferencePools."""
EPP_CRDS = {
    f"{GAIE}@v1.5.0": (
        "config/crd/bases/inference.networking.x-k8s.io_inferencemodelrewrites.yaml",
        "config/crd/bases/inference.networking.x-k8s.io_inferenceobjectives.yaml",
    ),
}
"""What epp v1.5.0 watches beside InferencePools. GAIE's suite refuses CRDs of two versions."""
LDFLAGS = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3"
"""Linker flags. Without gitVersion kube-apiserver would report v0.0.0."""
_CHARTUTIL = "helm.sh/helm/v3/pkg/chartutil.k8sVersion"
MORE_LDFLAGS = {"helm": f" -X {_CHARTUTIL}Major=1 -X {_CHARTUTIL}Minor=36"}
"""Without them helm would render for Kubernetes 1.20."""
_PROGRESS = 10.0
"""Seconds between two progress lines of a build."""


def _folder() -> Path:
    """The cache of programs and CRDs."""
    return cache_folder("cluster")


def _cached(name: str) -> Path:
    """The path of a program in the cache, which depends on its pinned version and our source only."""
    module, package = PROGRAMS[name]
    pinned = (MODULES / module / "go.mod").read_text()
    made_of = [pinned, package, _ldflags(name)]
    if package == ".":
        made_of.append((MODULES / module / "main.go").read_text())
    version = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]
    return _folder() / f"{name}-{version}"


def _ldflags(name: str) -> str:
    return LDFLAGS + MORE_LDFLAGS.get(name, "")


def binary(name: str) -> Path:
    """The path of a program in KUBEBUILDER_ASSETS or the cache.

    Raises:
        Unavailable: it is in neither.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for path in (*([Path(assets) / name] if assets else []), _cached(name)):
        if os.access(path, os.X_OK):
            return path
    raise Unavailable(f"there is no {_cached(name)}: run `make test-cluster`")


def crds(*, of_epp: bool = True) -> list[Path]:
    """The manifests of the CRDs, by default with those of epp v1.5.0.

    Raises:
        Unavailable: they are not in the cache.
    """
    sets = (CRDS, EPP_CRDS) if of_epp else (CRDS,)
    found = [_manifest(module, p) for crds in sets for module, paths in crds.items() for p in paths]
    if missing := [path for path in found if not path.exists()]:
        raise Unavailable(f"there is no {missing[0]}: run `make test-cluster`")
    return found


def _manifest(module: str, path: str) -> Path:
    return _folder() / module.replace("/", "-") / Path(path).name


def ensure(programs: Iterable[str] = TIER) -> None:
    """Build what is missing of `programs`, and get the CRDs. A lock lets one process build at a time.

    Raises:
        Unavailable: something is missing, and Go is not installed or fails.
    """
    with locked(_folder()):
        for name in programs:
            if not _there(name):
                _build(name, _cached(name))
        for module, paths in (CRDS | EPP_CRDS).items():
            missing = [path for path in paths if not _manifest(module, path).exists()]
            if missing:
                source = _downloaded(module)
                for path in missing:
                    _manifest(module, path).parent.mkdir(exist_ok=True)
                    shutil.copyfile(source / path, _manifest(module, path))


def _there(name: str) -> bool:
    try:
        return bool(binary(name))
    except Unavailable:
        return False


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        raise Unavailable("no Go (go) on PATH to build etcd, kube-apiserver and the pickers with")
    return go


def _build(name: str, target: Path) -> None:
    print(f"{name}: building (once, some minutes) ...", flush=True)
    module, package = PROGRAMS[name]
    verb = ("test", "-c") if name.endswith(".test") else ("build",)
    new = target.with_name(f"{target.name}.new")
    started = told = time.monotonic()
    with subprocess.Popen(
        (_go(), *verb, "-v", "-trimpath", f"-ldflags={_ldflags(name)}", "-o", str(new), package),
        cwd=MODULES / module,
        env={**os.environ, "CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if time.monotonic() - told > _PROGRESS:
                told = time.monotonic()
                print(f"{name}: {told - started:.0f} s, {len(lines)} packages ...", flush=True)
    if process.returncode:
        raise Unavailable(f"{name} cannot be built:\n{''.join(lines[-20:])}")
    new.rename(target)
    print(f"{name}: built in {time.monotonic() - started:.0f} s", flush=True)


def _downloaded(module: str) -> Path:
    command = (_go(), "mod", "download", "-json", module)
    # Not in one of our modules, whose go.sum it would change.
    answer = subprocess.run(command, cwd=_folder(), capture_output=True, text=True, check=False)
    facts = json.loads(answer.stdout or "{}")
    if "Dir" not in facts:
        raise Unavailable(f"{module} cannot be downloaded: {facts.get('Error') or answer.stderr}")
    return Path(facts["Dir"])
