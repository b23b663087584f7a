"""What a pool's modes make Envoy send: less for `request-mode: headers` and `response-mode: none`."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from epp_client.observe.advice import ENOUGH
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.settings import TransportName
from testbed.conversation import Record
from testbed.ports import free_ports
from testbed.stack import Stack, inference_pool, pod, running_stack

from .h2_peer import Message, h2_request, h2_server
from .tools import (
    add_objects,
    echo,
    metrics,
    record_of,
    recording_picker,
    run,
    settled,
    until,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODES = {
    "headers": Modes(RequestMode.HEADERS),
    "headers-skip": Modes(RequestMode.HEADERS, ResponseMode.SKIP),
    "headers-none": Modes(RequestMode.HEADERS, ResponseMode.NONE),
    "none": Modes(response=ResponseMode.NONE),
}
H2C = "headers-h2c"
BODY = bytes(range(256)) * 2_000
"""Half a MiB: more than a message, and more than a picker's answer may wait for."""


class Peers:
    """The installation, and what the picker and the h2c model server have seen."""

    def __init__(
        self,
        stack: Stack,
        records: list[Record],
        requests: list[Message],
        begun: defaultdict[str, asyncio.Event],
    ) -> None:
        self.stack, self.records, self.requests = stack, records, requests
        self.begun = begun
        """Set when the h2c model server has got a part of the body of the request with this `x-mark`."""


def pool_of(name: str, port: int, modes: Modes, failure: str, **spec: Any) -> dict[str, Any]:
    annotations = {
        "epp-client.dev/request-mode": str(modes.request),
        "epp-client.dev/response-mode": str(modes.response),
    }
    return inference_pool(name, port, "picker-modes", failure, annotations=annotations, **spec)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def peers(transport: TransportName) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as owner:
        begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        h2_port, requests = await owner.enter_async_context(
            h2_server(
                "127.0.0.23",
                Message({"content-type": "text/plain"}, b"hello"),
                lambda seen: begun[seen.headers.get("x-mark", "")].set(),
            )
        )
        modes = {**MODES, H2C: MODES["headers"], "headers-close": MODES["headers"]}
        stack = await owner.enter_async_context(
            running_stack(transport=transport, routes_to=[*modes], modes=modes)
        )
        endpoints = [*stack.endpoints, f"127.0.0.23:{h2_port}"]
        objects, records = await owner.enter_async_context(
            recording_picker("picker-modes", endpoints[:-1])
        )
        h2_picker, _ = await owner.enter_async_context(
            recording_picker("picker-h2", endpoints[-1:])
        )
        port = int(stack.endpoints[0].rpartition(":")[2])
        selector = {"matchLabels": {"app": "h2c"}}
        h2c = pool_of(
            H2C,
            h2_port,
            MODES["headers"],
            "FailOpen",
            selector=selector,
            appProtocol="kubernetes.io/h2c",
        )
        h2c["spec"]["endpointPickerRef"]["name"] = "picker-h2"
        objects += [
            *h2_picker,
            pod("h2c", "127.0.0.23", app="h2c"),
            h2c,
            pool_of("headers-close", port, MODES["headers"], "FailClose"),
            *(pool_of(name, port, mode, "FailOpen") for name, mode in MODES.items()),
        ]
        add_objects(stack, objects)
        async with httpx.AsyncClient(timeout=60) as client:
            for name in modes:
                await until(client, stack, name, lambda answer: answer.status_code == 200)
            yield Peers(stack, records, requests, begun)


@pytest.mark.parametrize("size", [0, 640, len(BODY)])
@pytest.mark.parametrize("name", MODES)
async def test_the_picker_sees_what_the_modes_say_and_the_model_server_everything(
    peers: Peers, client: httpx.AsyncClient, name: str, size: int
) -> None:
    mark, wanted = f"{name}-{size}", peers.stack.endpoints[1]
    answer = await echo(
        client,
        peers.stack,
        name,
        BODY[:size],
        x_mark=mark,
        test_epp_endpoint_selection=wanted,
    )
    assert answer.status_code == 200
    assert answer.headers["x-model-server"] == wanted
    assert answer.json()["size"] == size
    record = await record_of(peers.records, mark)
    modes = MODES[name]
    bodies = [] if modes.request is RequestMode.HEADERS or not size else ["request_body"]
    responses = (
        ["response_headers", "response_body"] if modes.response is ResponseMode.RELAY else []
    )
    assert record.phases == ["request_headers", *bodies, *responses]


@pytest.mark.parametrize("dialect", ["silent", "die-mid-body", "pick-outside", "close-before-pick"])
@pytest.mark.parametrize("name", MODES)
async def test_a_failing_picker_loses_no_byte_of_a_body_that_it_never_got(
    peers: Peers, client: httpx.AsyncClient, name: str, dialect: str
) -> None:
    answer = await echo(client, peers.stack, name, BODY, x_picker_dialect=dialect)
    assert answer.status_code == 200
    assert answer.json()["size"] == len(BODY)


async def test_fail_close_refuses_and_refusals_come_through(
    peers: Peers, client: httpx.AsyncClient
) -> None:
    refused = await echo(
        client, peers.stack, "headers-close", BODY, x_picker_dialect="pick-outside"
    )
    assert refused.status_code == 503
    assert refused.headers["x-inference-error"] == "pick_outside_pool"
    shed = await echo(client, peers.stack, "headers-close", BODY, x_picker_dialect="refuse-429")
    assert shed.status_code == 429


async def test_what_is_streamed_up_flows_while_it_is_said(
    peers: Peers, client: httpx.AsyncClient
) -> None:
    """Without its end: nobody waits for it, as nobody reads the body."""

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield BODY[:1000]
            await asyncio.sleep(0.2)

    answer = await client.post(peers.stack.pool_url("headers") + "/echo", content=slowly())
    assert answer.json()["size"] == 3000


@pytest.mark.parametrize("late", [False, True])
async def test_trailers_of_a_request_go_round_the_sidecar(peers: Peers, late: bool) -> None:
    """Envoy repeats no body here, as it injects none: the route keeps its retries. `late`: the trailers are
    sent once the model server has the body."""
    mark = f"with-trailers-{late}"
    request = Message({"x-mark": mark}, b"a prompt", {"x-request-checksum": "123"})
    url = urlsplit(peers.stack.pool_url(H2C))
    answer = await h2_request(
        url.hostname or "",
        url.port or 0,
        f"{url.path}/echo",
        request,
        peers.begun[mark].wait if late else None,
    )
    assert answer.headers[":status"] == "200"
    [seen] = [item for item in peers.requests if item.headers.get("x-mark") == mark]
    assert (seen.body, seen.trailers) == (request.body, request.trailers)


async def test_all_are_counted(peers: Peers, client: httpx.AsyncClient) -> None:
    for name in MODES:
        await settled(peers.stack)
        labels = {"pool": f"default/{name}", "outcome": "steered"}
        before = value(await metrics(client, peers.stack), "epp_client_requests", **labels)
        assert (await echo(client, peers.stack, name, BODY)).status_code == 200
        await settled(peers.stack)
        after = value(await metrics(client, peers.stack), "epp_client_requests", **labels)
        assert after == before + 1


async def test_a_mode_that_would_save_messages_is_suggested_and_not_switched(
    peers: Peers, client: httpx.AsyncClient
) -> None:
    async def rows() -> dict[str, Any]:
        said = await client.get(
            f"http://{peers.stack.sidecar.admin_address}/summary?q=default/open"
        )
        return {row["name"]: row for row in said.json()["pools"]["rows"]}

    async def checked() -> list[str]:
        """What `check --advice` prints after its findings, of this pool among others."""
        code, text = await run(
            *("check", str(peers.stack.manifests), "--advice"),
            *("--admin", peers.stack.sidecar.admin_address),
        )
        assert code == 0
        return [line for line in text.splitlines() if line.startswith("hint: ")]

    assert (await rows())["open"]["advice"] == []
    assert await checked() == [f"hint: none from {peers.stack.sidecar.admin_address}"]
    # A stream whose end arrives after the response has begun says nothing, so it may take a few more.
    for number in range(1, 10 * ENOUGH):
        answer = await echo(client, peers.stack, "open", x_picker_dialect="close-after-pick")
        assert answer.status_code == 200
        if number >= ENOUGH:
            await settled(peers.stack)
            if (await rows())["open"]["advice"]:
                break
    row = (await rows())["open"]
    [text] = row["advice"]
    assert "response-mode: skip would save" in text
    assert row["responseMode"] == "relay"
    assert await checked() == [f"hint: default/open: {text}"]


async def test_check_says_that_no_sidecar_answers(peers: Peers) -> None:
    [nobody] = free_ports(1)
    code, text = await run(
        *("check", str(peers.stack.manifests), "--advice", "--admin", f"127.0.0.1:{nobody}")
    )
    assert code == 3
    assert "0 errors" in text
    assert f"nothing listens at 127.0.0.1:{nobody}" in text
