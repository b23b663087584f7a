"""config/llm-d/values.yaml, rendered by the real helm with llm-d's chart or its stand-in, and sent to the
API server."""

from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from epp_client.cli import app
from epp_client.up.standing_in import settings_of_the_chart
from testbed.cluster import objects
from testbed.cluster.api import Api, Object
from tests.cluster.conftest import Site
from tests.cluster.llm_d import (
    LABELS,
    NO_POOL,
    POD_NAME,
    REAL,
    RELEASE,
    SERVICE,
    VALUES,
    proxy_of,
    render,
)
from tests.up.test_standing_in import CHART

pytestmark = pytest.mark.timeout(90)
in_the_session = pytest.mark.asyncio(loop_scope="session")

MODES = {
    "sidecar": (),
    "sidecar-without-pool": (NO_POOL,),
    "service": (SERVICE,),
    "service-without-pool": (SERVICE, NO_POOL),
}


@pytest.fixture(scope="module", params=MODES)
def rendered(request: pytest.FixtureRequest) -> tuple[str, list[Object]]:
    return request.param, render("inference", LABELS, *MODES[request.param])


@in_the_session
async def test_the_api_server_accepts_what_the_chart_renders(
    site: Site, rendered: tuple[str, list[Object]]
) -> None:
    mode, _ = rendered
    made = render(site.namespace, LABELS, *MODES[mode])
    await site.api.apply(made, dry_run=True)


@in_the_session
async def test_its_proxy_passes_the_restricted_pod_security_standard(
    api: Api, rendered: tuple[str, list[Object]]
) -> None:
    mode, made = rendered
    namespace = objects.namespace(f"llm-d-{mode}")
    namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.create(namespace)
    proxy = proxy_of(made)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": namespace["metadata"]["name"]},
        "spec": {"containers": [proxy.container], "volumes": proxy.pod["volumes"]},
    }
    await api.create(pod, dry_run=True)


def test_the_charts_command_and_arguments_stay(rendered: tuple[str, list[Object]]) -> None:
    proxy = proxy_of(rendered[1])
    assert proxy.line == ["envoy", *CHART]
    ports = {port["containerPort"] for port in proxy.container["ports"]}
    assert ports == {8081, 19001, 9902}
    probe = proxy.container["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == ("/ready", 19001)


def test_its_settings_are_options_of_up(rendered: tuple[str, list[Object]]) -> None:
    mode, made = rendered
    settings = yaml.safe_load(proxy_of(made).files["/etc/envoy/envoy.yaml"])
    command = get_command(app).commands["up"]  # type: ignore[attr-defined]
    assert {f"--{name}" for name in settings} <= {o for p in command.params for o in p.opts}
    host = "127.0.0.1"
    if mode.startswith("service"):
        host = f"{RELEASE}-epp.inference.svc.cluster.local"
    assert (settings["picker"], settings["picker-tls"]) == (f"{host}:9002", "unverified")
    [picker] = [
        container
        for item in made
        if item["kind"] == "Deployment"
        for container in item["spec"]["template"]["spec"]["containers"]
        if container["name"] == "epp"
    ]
    if mode.endswith("without-pool"):
        asked = dict(zip(picker["args"], picker["args"][1:], strict=False))
        for name in ("endpoint-selector", "endpoint-target-ports"):
            assert str(settings[name]) == asked[f"--{name}"]
    else:
        assert settings["pool"] == f"inference/{RELEASE}"
        assert "endpoint-selector" not in settings


def test_values_of_the_chart_reach_the_settings() -> None:
    made = render(
        "n",
        *(NO_POOL, "router.modelServers.matchLabels.b=2", "router.modelServers.matchLabels.a=1"),
        *("router.modelServers.protocol=grpc", "router.proxy.failOpen=false"),
        "router.epp.flags.secure-serving=false",
        "router.modelServers.targetPorts[0].number=8000",
        "router.modelServers.targetPorts[1].number=8001",
    )
    settings = yaml.safe_load(proxy_of(made).files["/etc/envoy/envoy.yaml"])
    assert settings["endpoint-selector"] == "a=1,b=2"
    assert settings["endpoint-target-ports"] == "8000,8001"
    assert settings["failure-mode"] == "FailClose"
    assert settings["app-protocol"] == "kubernetes.io/h2c"
    assert settings["picker-tls"] == "plaintext"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", [None, VALUES], ids=["image-alone", "values"])
def test_the_stand_in_has_the_shape_of_the_real_chart(mode: str, values: Path | None) -> None:
    if not REAL:
        pytest.skip("EPP_CLIENT_TEST_LLM_D is not set, to the folder of llm-d's charts")
    ours, theirs = (
        proxy_of(render("n", LABELS, *MODES[mode], values=values, real=real))
        for real in (False, True)
    )
    assert ours.container == theirs.container
    assert ours.account == theirs.account
    [file, *_] = ours.files
    if values is not None:
        assert yaml.safe_load(ours.files[file]) == yaml.safe_load(theirs.files[file])
    else:
        environment = {"POD_NAME": POD_NAME, "NS_NAME": "n"}
        found = [
            settings_of_the_chart(yaml.safe_load(proxy.files[file]), environment)
            for proxy in (ours, theirs)
        ]
        assert found[0] == found[1]
