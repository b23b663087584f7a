"""What Envoy, or a filter before ours, answers by itself reaches the client as it is: the real Envoy, with
every such filter that its binary has.

Twice: with the bootstrap of `envoy-config`, and with a filter of somebody else's bootstrap, which is on for
all routes and names no pool.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from testbed.picker import start_picker
from testbed.stack import Stack, running_stack

from .tools import connection_manager, metrics, settled, value

pytestmark = pytest.mark.asyncio(loop_scope="session")

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MARK = "x-test"
SEEN = {"name": MARK, "string_match": {"exact": "rbac"}}
WHOLE = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
POOLS = ("nopicker", "close")


def filters(refusing_picker: str) -> dict[str, dict[str, Any]]:
    """By name, without their type; each answers when a header, or its route, says so."""
    lua = "function envoy_on_request(h) if h:headers():get('x-test') == 'lua' then " + (
        "h:respond({[':status'] = '451', ['x-by'] = 'lua'}, 'lua says no') end end"
    )
    cluster = {"cluster_name": "other-ext-proc"}
    return {
        "rbac.v3.RBAC": {
            "rules": {
                "action": "DENY",
                "policies": {
                    "p": {"permissions": [{"any": True}], "principals": [{"header": SEEN}]}
                },
            }
        },
        "cors.v3.Cors": {},
        "csrf.v3.CsrfPolicy": {"filter_enabled": WHOLE},
        "local_ratelimit.v3.LocalRateLimit": {"stat_prefix": "limit"},
        "health_check.v3.HealthCheck": {
            "pass_through_mode": False,
            "headers": [{"name": ":path", "string_match": {"suffix": "/alive"}}],
        },
        "ext_proc.v3.ExternalProcessor": {
            "grpc_service": {"envoy_grpc": cluster},
            "processing_mode": {"response_header_mode": "SKIP"},
        },
        "buffer.v3.Buffer": {"max_request_bytes": 4},
        "fault.v3.HTTPFault": {"abort": {"header_abort": {}, "percentage": {"numerator": 100}}},
        "lua.v3.Lua": {"default_source_code": {"inline_string": lua}},
        "basic_auth.v3.BasicAuth": {
            "users": {"inline_string": "u:{SHA}NWoZK3kTsExUV00Ywo1G5jlUKKs="}
        },
        "jwt_authn.v3.JwtAuthentication": {
            "providers": {
                "p": {
                    "remote_jwks": {
                        "http_uri": {"uri": "http://a", "cluster": "nowhere", "timeout": "1s"}
                    }
                }
            },
            "rules": [
                {
                    "match": {
                        "prefix": "/",
                        "headers": [{**SEEN, "string_match": {"exact": "jwt"}}],
                    },
                    "requires": {"provider_name": "p"},
                }
            ],
        },
        "ext_authz.v3.ExtAuthz": {"grpc_service": {"envoy_grpc": {"cluster_name": "nowhere"}}},
    }


ONLY_ON_A_ROUTE = {
    "local_ratelimit.v3.LocalRateLimit": "limited",
    "ext_proc.v3.ExternalProcessor": "guarded",
    "buffer.v3.Buffer": "small",
    "basic_auth.v3.BasicAuth": "basic",
    "ext_authz.v3.ExtAuthz": "authz",
    "cors.v3.Cors": "cors",
    "csrf.v3.CsrfPolicy": "csrf",
}
"""Filters that are disabled but for a copy of the pool's routes, at `<this>/` behind the pool's prefix."""


class Reply(NamedTuple):
    """A request, and what answers it."""

    status: int
    path: str = "/echo"
    method: str = "POST"
    headers: Mapping[str, str] = MappingProxyType({})
    body: str | None = None


REPLIES = {
    "RBAC": Reply(403, headers={MARK: "rbac"}, body="RBAC: access denied"),
    "CORS preflight": Reply(
        200,
        "/cors/echo",
        "OPTIONS",
        {"origin": "http://a.example", "access-control-request-method": "POST"},
        "",
    ),
    "CSRF": Reply(
        403, "/csrf/echo", headers={"origin": "http://evil.example"}, body="Invalid origin"
    ),
    "rate limit": Reply(429, "/limited/echo", body="local_rate_limited"),
    "health check": Reply(200, "/alive", "GET", body=""),
    "another ext_proc": Reply(429, "/guarded/echo", "GET", body="the picker refuses"),
    "buffer": Reply(413, "/small/echo", body="Payload Too Large"),
    "fault": Reply(418, headers={"x-envoy-fault-abort-request": "418"}, body="fault filter abort"),
    "Lua": Reply(451, headers={MARK: "lua"}, body="lua says no"),
    "basic auth": Reply(401, "/basic/echo"),
    "JWT": Reply(401, headers={MARK: "jwt"}, body="Jwt is missing"),
    "ext_authz": Reply(403, "/authz/echo", body=""),
    "Envoy: upgrade": Reply(403, headers={"connection": "upgrade", "upgrade": "other"}, body=""),
}


def bootstrap_with(refusing_picker: str, named: bool) -> Any:
    """Edits the bootstrap: filters before ours; not `named`: ours is on for all and names no pool."""

    def edit(bootstrap: dict[str, Any]) -> None:
        manager = connection_manager(bootstrap)
        [host] = manager["route_config"]["virtual_hosts"]
        ours = manager["http_filters"][0]
        made = []
        for kind, config in filters(refusing_picker).items():
            typed = {"@type": f"{HTTP}.{kind}", **config}
            made.append({"name": kind, "typed_config": typed, "disabled": kind in ONLY_ON_A_ROUTE})
        manager["http_filters"][:0] = made
        copies = []
        for kind, name in ONLY_ON_A_ROUTE.items():
            for route in host["routes"]:
                copy = deepcopy(route)
                copy["match"]["prefix"] += f"{name}/"
                copy["typed_per_filter_config"][kind] = per_route(kind)
                copies.append(copy)
        host["routes"][:0] = copies
        if not named:
            del ours["disabled"]
            for route in host["routes"]:
                del route["typed_per_filter_config"][ours["name"]]
        clusters = bootstrap["static_resources"]["clusters"]
        other = deepcopy(next(c for c in clusters if c["name"] == "epp-client"))
        ip, _, port = refusing_picker.rpartition(":")
        address = {"socket_address": {"address": ip, "port_value": int(port)}}
        other["name"] = other["load_assignment"]["cluster_name"] = "other-ext-proc"
        other["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [{"endpoint": {"address": address}}]}
        ]
        nowhere = {**deepcopy(other), "name": "nowhere"}
        nowhere["load_assignment"] = {"cluster_name": "nowhere"}
        clusters += [other, nowhere]
        manager["request_timeout"] = "2s"

    return edit


def per_route(kind: str) -> dict[str, Any]:
    """What switches a filter on."""
    match kind:
        case "local_ratelimit.v3.LocalRateLimit":
            bucket = {"max_tokens": 1, "fill_interval": "86400s"}
            typed = {
                "stat_prefix": "limit",
                "token_bucket": bucket,
                "filter_enabled": WHOLE,
                "filter_enforced": WHOLE,
            }
            return {"@type": f"{HTTP}.{kind}", **typed}
        case "cors.v3.Cors":
            allowed = {
                "allow_origin_string_match": [{"prefix": "http://"}],
                "allow_methods": "POST",
            }
            return {"@type": f"{HTTP}.cors.v3.CorsPolicy", **allowed}
        case _:
            return {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=[True, False], ids=["ours", "no pool named"]
)
async def named(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(transport: TransportName, named: bool) -> AsyncIterator[Stack]:
    server, address = await start_picker("127.0.0.1:0", ["127.0.0.1:1"], None, ["refuse-429"])
    try:
        edit = bootstrap_with(address, named)
        async with running_stack(transport=transport, edit_bootstrap=edit) as running:
            yield running
    finally:
        await server.stop(0)


async def outcomes(client: httpx.AsyncClient, stack: Stack) -> dict[str, float]:
    families = await metrics(client, stack)
    names = ("steered", "failed_open", "local_pick", "refused", "cancelled", "local_reply")
    return {name: value(families, "epp_client_requests", outcome=name) for name in names}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", REPLIES)
async def test_what_another_filter_answers_reaches_the_client_as_it_is(
    stack: Stack, client: httpx.AsyncClient, name: str, pool: str
) -> None:
    reply = REPLIES[name]
    url = stack.pool_url(pool) + reply.path
    content = b"hello" if reply.method == "POST" else None
    if name == "rate limit":
        # takes the only token; whatever answers
        await client.post(url, content=b"hello")
    await settled(stack)
    before = await outcomes(client, stack)
    answer = await client.request(reply.method, url, headers=dict(reply.headers), content=content)
    assert (answer.status_code, answer.text) == (
        reply.status,
        answer.text if reply.body is None else reply.body,
    )
    assert "x-inference-error" not in answer.headers
    if name == "Lua":
        assert answer.headers["x-by"] == "lua"
    if name == "CORS preflight":
        assert answer.headers["access-control-allow-origin"] == "http://a.example"
    await settled(stack)
    after = await outcomes(client, stack)
    assert after == {**before, "local_reply": before["local_reply"] + 1}


async def test_a_request_that_never_ends_is_envoy_s_408(stack: Stack, named: bool) -> None:
    if not named:
        pytest.skip("the request itself is refused: it names no pool")
    host, _, port = stack.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /default/close/echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf")
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"x-inference-error" not in head


async def test_a_path_without_a_route_is_envoy_s_404(
    stack: Stack, client: httpx.AsyncClient, named: bool
) -> None:
    if not named:
        pytest.skip("the filter is on where no route is, and refuses the request: it names no pool")
    answer = await client.post(f"{stack.url}/nowhere", content=b"hello")
    assert (answer.status_code, answer.content) == (404, b"")
    assert "x-inference-error" not in answer.headers
