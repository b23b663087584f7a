"""What the real Envoy does with the table of a Gateway."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
import trustme

from epp_client.gateway.table import (
    Backend,
    Certificate,
    Entry,
    Forward,
    HeaderChange,
    Host,
    Match,
    Mirror,
    PathChange,
    PathKind,
    PathMatch,
    Redirect,
    Service,
    ServicePort,
    ValueMatch,
)
from epp_client.pool.store import PoolStore
from testbed.stack import ENVOY_HOST

from .gateways import ECHO, EMPTY, OTHER, TO_ECHO, RunningGateway, entry, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway() -> AsyncIterator[RunningGateway]:
    store = PoolStore()
    store.publish({})
    async with running_gateway(store) as running:
        yield running


async def get(
    client: httpx.AsyncClient, gateway: RunningGateway, host: str, path: str, **more: Any
) -> httpx.Response:
    headers = {"host": host, **more.pop("headers", {})}
    return await client.get(gateway.url + path, headers=headers, **more)


def to(*backends: Backend, **more: Any) -> Forward:
    return Forward(backends, **more)


ECHOED = Backend(ECHO)
TABLE: list[tuple[Entry, str, int, str]] = [
    # entry, path that is asked for, status, path that the Service has got (or the location)
    (entry("/exact", TO_ECHO, PathKind.EXACT), "/exact?q=1", 200, "/exact?q=1"),
    (entry("/exact", TO_ECHO, PathKind.EXACT), "/exact/", 404, ""),
    (entry("/prefix", TO_ECHO), "/prefix/a?q", 200, "/prefix/a?q"),
    (entry("/prefix", TO_ECHO), "/prefixed", 404, ""),
    (entry("/re[0-9]+", TO_ECHO, PathKind.REGEX), "/re12", 200, "/re12"),
    (entry("/re[0-9]+", TO_ECHO, PathKind.REGEX), "/re12/", 404, ""),
    (entry("/(abc|def|ghi|jkl){1,200}", TO_ECHO, PathKind.REGEX), "/abcjkl", 200, "/abcjkl"),
    (entry("/none", Forward()), "/none", 500, ""),
    (entry("/invalid", to(Backend(None))), "/invalid/a", 500, ""),
    (entry("/empty", to(Backend(EMPTY))), "/empty", 503, ""),
    *(
        (entry(prefix, to(ECHOED, path=PathChange(value, whole))), asked, 200, got)
        for prefix, value, whole, asked, got in [
            ("/foo", "/xyz", False, "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", False, "/foo/bar?q", "/xyz/bar?q"),
            ("/foo", "/xyz", False, "/foo", "/xyz"),
            ("/foo", "/xyz", False, "/foo/", "/xyz/"),
            ("/foo", "/", False, "/foo/bar?q=/foo", "/bar?q=/foo"),
            ("/foo", "", False, "/foo/bar", "/bar"),
            ("/foo", "/", False, "/foo", "/"),
            ("/foo", "/", False, "/foo?q", "/?q"),
            ("/foo", "/", False, "/foo/", "/"),
            ("/f.o+(o)", "/", False, "/f.o+(o)/bar", "/bar"),
            ("/", "/xyz", False, "/bar", "/xyz/bar"),
            ("/", "/", False, "/bar", "/bar"),
            ("/foo", "/whole", True, "/foo/bar?q=1", "/whole?q=1"),
            ("/foo", r"/\1%REQ(x)%$&", True, "/foo", r"/\1%REQ(x)%$&"),
        ]
    ),
    *(
        (entry("/foo", redirect), asked, redirect.status, location)
        for redirect, asked, location in [
            (Redirect(301, "https"), "/foo/a?q", "https://a.example.com/foo/a?q"),
            (Redirect(303, "https", port=443), "/foo", "https://a.example.com/foo"),
            (Redirect(307, "https", port=8443), "/foo", "https://a.example.com:8443/foo"),
            (Redirect(308, "", "b.example.com", 80), "/foo", "http://b.example.com:80/foo"),
            (Redirect(302, hostname="b.example.com"), "/foo", "http://b.example.com/foo"),
            (
                Redirect(path=PathChange("/new%PATH%", True)),
                "/foo/a?q",
                "http://a.example.com/new%PATH%?q",
            ),
            (Redirect(path=PathChange("/new", False)), "/foo/a", "http://a.example.com/new/a"),
            (Redirect(path=PathChange("/", False)), "/foo/a", "http://a.example.com/a"),
        ]
    ),
]


async def test_every_kind_of_entry(gateway: RunningGateway) -> None:
    async with httpx.AsyncClient() as client:
        for row, asked, status, result in TABLE:
            await gateway.serve(gateway.table(Host("a.example.com", (row,))))
            answer = await get(client, gateway, "a.example.com", asked)
            assert answer.status_code == status, (row, asked)
            if status == 200:
                assert answer.json()["path"] == result, (row, asked)
            if 300 <= status < 400:
                assert answer.headers["location"] == result, (row, asked)


async def test_the_most_specific_hostname_decides_whatever_the_port(
    gateway: RunningGateway,
) -> None:
    def host(name: str) -> Host:
        return Host(name, (entry("/", to(ECHOED, path=PathChange(f"/{name}", True))),))

    await gateway.serve(gateway.table(*map(host, ("*", "*.example.com", "a.example.com"))))
    async with httpx.AsyncClient() as client:
        for asked, served in [
            ("a.example.com", "a.example.com"),
            ("A.example.com:8080", "a.example.com"),
            ("b.example.com", "*.example.com"),
            ("c.a.example.com:1", "*.example.com"),
            ("example.com", "*"),
            ("192.0.2.1:80", "*"),
        ]:
            answer = await get(client, gateway, asked, "/")
            assert answer.json()["path"] == f"/{served}", asked


async def test_a_redirect_of_any_hostname_keeps_no_port_of_the_request(
    gateway: RunningGateway,
) -> None:
    rows = (entry("/", Redirect(302, "https")),)
    await gateway.serve(gateway.table(Host("*.example.com", rows)))
    async with httpx.AsyncClient() as client:
        for asked, location in [
            ("a.example.com", "https://a.example.com/"),
            ("a.example.com:8080", "https://a.example.com:443/"),
        ]:
            answer = await get(client, gateway, asked, "/")
            assert answer.headers["location"] == location


async def test_conditions_on_method_headers_and_query(gateway: RunningGateway) -> None:
    path = PathMatch()
    matches = {
        "method": Match(path, "DELETE"),
        "header": Match(path, headers=(ValueMatch("x-a", "1"), ValueMatch("x-b", "b+", True))),
        "query": Match(path, query=(ValueMatch("q", "v"), ValueMatch("r", "[0-9]", True))),
    }
    rows = tuple(
        Entry(match, to(ECHOED, path=PathChange(f"/{name}", True)))
        for name, match in matches.items()
    )
    await gateway.serve(gateway.table(Host("*", rows)))
    async with httpx.AsyncClient() as client:
        for method, query, headers, expected in [
            ("DELETE", "", {}, "/method"),
            ("GET", "", {"x-a": "1", "x-b": "bb"}, "/header"),
            ("GET", "", {"x-a": "1", "x-b": "abb"}, None),
            ("GET", "", {"x-b": "b"}, None),
            ("GET", "?q=v&r=7", {}, "/query?q=v&r=7"),
            ("GET", "?q=v&r=77", {}, None),
        ]:
            answer = await client.request(method, f"{gateway.url}/{query}", headers=headers)
            got = answer.json()["path"] if answer.status_code == 200 else None
            assert got == expected, (method, query, headers)


async def test_headers_are_set_added_and_removed_literally(gateway: RunningGateway) -> None:
    request = HeaderChange(
        (("x-set", "50%"), ("host", "no")), (("x-add", "%REQ(x)%"),), ("x-gone",)
    )
    response = HeaderChange((("x-kept", "2"),), (("x-new", "%"),), ("x-removed",))
    changed = Backend(
        ECHO, 1, HeaderChange(add=(("x-add", "mine"),)), HeaderChange(add=(("x-b", "1"),))
    )
    row = entry("/", to(changed, hostname="up.example.com"))._replace(
        request_headers=request, response_headers=response
    )
    await gateway.serve(gateway.table(Host("*", (row,))))
    headers = {"x-set": "client", "x-add": "client", "x-gone": "1"}
    async with httpx.AsyncClient() as client:
        answer = await get(client, gateway, "a", "/", headers=headers)
    seen = [tuple(item) for item in answer.json()["headers"]]
    assert ("host", "up.example.com") in seen
    assert ("x-set", "50%") in seen
    assert sorted(value for name, value in seen if name == "x-add") == [
        "%REQ(x)%",
        "client",
        "mine",
    ]
    assert "x-gone" not in dict(seen)
    assert answer.headers["x-kept"] == "2"
    assert (answer.headers["x-new"], answer.headers["x-b"]) == ("%", "1")
    assert "x-removed" not in answer.headers


async def test_weights_and_the_share_of_an_invalid_backend(gateway: RunningGateway) -> None:
    row = entry("/", to(Backend(ECHO, 50), Backend(OTHER, 30), Backend(None, 20)))
    await gateway.serve(gateway.table(Host("*", (row,))))
    seen = Counter[str]()
    async with httpx.AsyncClient() as client:
        for _ in range(1000):
            answer = await get(client, gateway, "a", "/")
            seen[
                answer.json()["service"] if answer.status_code == 200 else str(answer.status_code)
            ] += 1
    assert set(seen) == {"echo", "other", "500"}
    # five standard deviations
    assert abs(seen["echo"] - 500) < 80
    assert abs(seen["500"] - 200) < 64


async def test_a_mirror_gets_copies_and_its_answers_are_dropped(gateway: RunningGateway) -> None:
    row = entry("/", to(ECHOED, mirrors=(Mirror(EMPTY), Mirror(OTHER))))
    await gateway.serve(gateway.table(Host("*", (row,))))
    async with httpx.AsyncClient() as client:
        answer = await get(client, gateway, "a", "/mirrored")
    assert answer.json()["service"] == "echo"
    async with asyncio.timeout(60):
        while ("other", "/mirrored") not in gateway.seen:
            await asyncio.sleep(0.01)
    assert gateway.seen.count(("echo", "/mirrored")) == 1


async def test_no_request_is_lost_while_routes_and_services_change(gateway: RunningGateway) -> None:
    """Each change replaces the Service and with it the cluster; the one before is removed."""
    address = gateway.services[ECHO].endpoints

    def change(number: int) -> None:
        service = ServicePort("default", f"service-{number}", 80)
        gateway.services = {service: Service(address)}
        row = entry("/", to(Backend(service)))
        gateway.server.serve_gateway(gateway.table(Host("*", (row,))))

    before = gateway.services
    try:
        change(0)
        await gateway.acknowledged()
        async with under_load(gateway):
            for number in range(1, 60):
                change(number)
                # some changes overtake the ones before
                await asyncio.sleep(0.03 if number % 3 else 0)
                if not number % 10:
                    await gateway.acknowledged()
    finally:
        gateway.services = before


async def test_a_new_sidecar_takes_nothing_away(gateway: RunningGateway) -> None:
    """Envoy connects to it before it knows the table, and keeps its clusters, routes and listeners."""
    await gateway.serve(gateway.table(Host("*", (entry("/", TO_ECHO),))))
    async with under_load(gateway):
        await gateway.replace_server()
        async with asyncio.timeout(60):
            while gateway.server.gateway_acknowledged is None:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert gateway.server.gateway_acknowledged is False
        await gateway.serve(gateway.table(Host("*", (entry("/", TO_ECHO),))))
        await asyncio.sleep(0.1)


@asynccontextmanager
async def under_load(gateway: RunningGateway) -> AsyncIterator[None]:
    """Requests go on meanwhile. None of them may fail, and no listener may change."""
    statuses, ended = Counter[int](), asyncio.Event()

    async def load() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not ended.is_set():
                answer = await get(client, gateway, "a", "/")
                statuses[answer.status_code] += 1

    stats = ("listener_manager.listener_modified", "listener_manager.total_listeners_draining")
    unchanged = await gateway.stats(*stats)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(load())
        yield
        ended.set()
    assert statuses.keys() == {200}
    assert statuses[200] > 50
    assert await gateway.stats(*stats) == unchanged
    assert unchanged[1] == 0


def certificate(authority: trustme.CA) -> Certificate:
    issued = authority.issue_cert("a.example.com")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return Certificate(chain, issued.private_key_pem.bytes())


async def test_a_certificate_is_renewed_and_no_connection_ends(gateway: RunningGateway) -> None:
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    host = Host("a.example.com", (entry("/", TO_ECHO),))
    await gateway.serve(gateway.table(host, certificate=certificate(authority)))
    stats = ("listener_manager.listener_modified", "listener_manager.total_listeners_draining")
    unchanged = await gateway.stats(*stats)

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection(
            ENVOY_HOST, gateway.ports[1], ssl=trust, server_hostname="a.example.com"
        )
        return reader, writer, writer.get_extra_info("ssl_object").getpeercert(True)

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        await reader.readexactly(int(length.partition(b":")[2]))
        return head.split(b"\r\n")[0]

    reader, writer, first = await connected()
    assert await ask(reader, writer) == b"HTTP/1.1 200 OK"
    await gateway.serve(gateway.table(host, certificate=certificate(authority)))
    async with asyncio.timeout(60):
        while True:
            other_reader, other_writer, second = await connected()
            assert await ask(other_reader, other_writer) == b"HTTP/1.1 200 OK"
            other_writer.close()
            if second != first:
                break
    assert await ask(reader, writer) == b"HTTP/1.1 200 OK"
    writer.close()
    assert await gateway.stats(*stats) == unchanged


async def test_a_server_name_that_no_chain_has_is_not_served(gateway: RunningGateway) -> None:
    authority = trustme.CA()
    await gateway.serve(gateway.table(certificate=certificate(authority)))
    unverified = ssl._create_unverified_context()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(
            ENVOY_HOST, gateway.ports[1], ssl=unverified, server_hostname="other.test"
        )


async def test_rejected_routes_leave_the_last_good_ones(gateway: RunningGateway) -> None:
    await gateway.serve(gateway.table(Host("*", (entry("/", TO_ECHO),))))
    bad = entry("/(?=lookahead)", TO_ECHO, PathKind.REGEX)
    gateway.server.serve_gateway(gateway.table(Host("*", (bad, entry("/", Forward())))))
    async with asyncio.timeout(60):
        while not any(stream.state.rejected for stream in gateway.server._streams):
            await asyncio.sleep(0.01)
    assert gateway.server.gateway_acknowledged is False
    async with httpx.AsyncClient() as client:
        assert (await get(client, gateway, "a", "/")).status_code == 200
        await gateway.serve(gateway.table(Host("*", (entry("/", Forward()),))))
        assert (await get(client, gateway, "a", "/")).status_code == 500
