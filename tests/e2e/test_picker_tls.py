"""How pickers are spoken to, pool by pool, through the real Envoy: TLS in every form, and ExternalName."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import trustme

from epp_client.settings import TransportName
from testbed.picker import start_picker, tls_credentials
from testbed.stack import Stack, inference_pool, running_stack, service
from tests.e2e.tools import add_objects, echo, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVED = {
    "verified": {"tls": "verified", "tls-ca-file": "{ca}"},
    "unverified": {"tls": "unverified"},
    "mutual": {
        "tls": "verified",
        "tls-ca-file": "{ca}",
        "tls-cert-file": "{cert}",
        "tls-key-file": "{key}",
    },
}
REFUSED = {
    "stranger": {"tls": "verified", "tls-ca-file": "{other_ca}"},
    "misnamed": {"tls": "verified", "tls-ca-file": "{ca}", "tls-server-name": "another.name"},
    "plaintext": {"tls": "plaintext"},
}


def _pool(name: str, port: int, given: dict[str, str], files: dict[str, str]) -> dict[str, Any]:
    annotations = {f"epp-client.dev/{k}": text.format(**files) for k, text in given.items()}
    picker = "mutual" if name == "mutual" else "tls"
    return inference_pool(name, port, picker, "FailClose", annotations=annotations)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(
    transport: TransportName, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    files = {name: str(folder / f"{name}.pem") for name in ("ca", "other_ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    trustme.CA().cert_pem.write_to_path(files["other_ca"])
    # The name that a picker's Service has: what is verified unless an annotation says otherwise.
    leaf = authority.issue_cert("tls.default.svc", "mutual.default.svc")
    leaf.cert_chain_pems[0].write_to_path(files["cert"])
    leaf.private_key_pem.write_to_path(files["key"])
    pair = (Path(files["cert"]), Path(files["key"]))
    names = [*SERVED, *REFUSED, "external"]
    async with running_stack(transport=transport, routes_to=names) as running:
        port = int(running.endpoints[0].rpartition(":")[2])
        anybody, address = await start_picker(
            "127.0.0.1:0", running.endpoints, tls_credentials(*pair)
        )
        known, strict = await start_picker(
            "127.0.0.1:0", running.endpoints, tls_credentials(*pair, Path(files["ca"]))
        )
        [external, *_] = service("external", address)
        external["spec"] |= {"type": "ExternalName", "externalName": "picker.example.com"}
        given = {**SERVED, **REFUSED, "external": {"tls": "plaintext"}}
        pools = [_pool(name, port, how, files) for name, how in given.items()]
        pools[-1]["spec"]["endpointPickerRef"]["name"] = "external"
        add_objects(
            running, [*pools, external, *service("tls", address), *service("mutual", strict)]
        )
        async with httpx.AsyncClient(timeout=60) as client:
            await until(client, running, "verified", lambda answer: answer.status_code == 200)
        try:
            yield running
        finally:
            await anybody.stop(0)
            await known.stop(0)


@pytest.mark.parametrize("pool", SERVED)
async def test_a_picker_that_is_who_it_should_be_steers(
    stack: Stack, client: httpx.AsyncClient, pool: str
) -> None:
    wanted = stack.endpoints[1]
    answer = await echo(client, stack, pool, test_epp_endpoint_selection=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-server"] == wanted
    assert answer.headers["x-conformance-test-served-endpoint"] == wanted


@pytest.mark.parametrize("pool", REFUSED)
async def test_one_that_is_not_is_not_asked(
    stack: Stack, client: httpx.AsyncClient, pool: str
) -> None:
    answer = await echo(client, stack, pool)
    assert answer.status_code == 503
    assert answer.headers["x-inference-error"] == "picker_unreachable"


async def test_an_external_name_is_no_picker(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(client, stack, "external")
    assert answer.status_code == 503
    assert answer.headers["x-inference-error"] == "picker_unresolved"
    admin = f"http://{stack.sidecar.admin_address}/pools/default/external"
    assert "ExternalName" in (await client.get(admin)).json()["picker"]["problem"]
