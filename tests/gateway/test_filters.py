"""What the filters and timeouts of a rule become."""

from collections.abc import Sequence
from typing import Any

import pytest

from epp_client.gateway.filters import seconds
from epp_client.gateway.table import (
    Backend,
    Forward,
    HeaderChange,
    Mirror,
    PathChange,
    Redirect,
    ServicePort,
)
from tests.gateway.objects import (
    CERTIFICATE,
    POOL,
    POOL_REF,
    gateway,
    listener,
    resolve,
    route,
    rows,
    rule,
    said,
    service,
    tls,
)
from tests.gateway.test_listeners import SECRET

WEB = {"name": "web", "port": 80}
SERVICES = {("default", "web"): service(80)}


def _header(name: str, value: str) -> tuple[dict[str, Any], ...]:
    change = {"set": [{"name": name, "value": value}]}
    return ({"type": "RequestHeaderModifier", "requestHeaderModifier": change},)


def entry(*filters: dict[str, Any], **more: Any) -> Any:
    [found] = rows(resolve(route(rule(filters=list(filters), **more)), services=SERVICES).table)
    return found


def test_header_modifiers_keep_the_first_of_equal_names() -> None:
    headers = {
        "set": [{"name": "A", "value": "1"}, {"name": "a", "value": "2"}],
        "add": [{"name": "b", "value": "3"}],
        "remove": ["c"],
    }
    change = HeaderChange((("A", "1"),), (("b", "3"),), ("c",))
    found = entry(
        {"type": "RequestHeaderModifier", "requestHeaderModifier": headers},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": headers},
    )
    assert found.request_headers == found.response_headers == change


def test_a_backend_may_have_header_modifiers_of_its_own() -> None:
    headers = {"set": [{"name": "A", "value": "1"}]}
    own = {"type": "RequestHeaderModifier", "requestHeaderModifier": headers}
    found = entry(to=[{**POOL_REF, "filters": [own]}])
    assert found.action.backends == (Backend(POOL, 1, HeaderChange((("A", "1"),))),)


def test_other_filters_of_a_backend_are_not_supported() -> None:
    own = {"type": "URLRewrite", "urlRewrite": {"hostname": "a.io"}}
    found = resolve(route(rule(to=[{**POOL_REF, "filters": [own]}])))
    assert said(found)["Accepted"].reason == "UnsupportedValue"
    assert "backendRefs[0].filters[0].type" in said(found)["Accepted"].message


@pytest.mark.parametrize(
    ("fields", "redirect"),
    [
        ({}, Redirect(302, "", "", None)),
        ({"hostname": "b.io", "statusCode": 301}, Redirect(301, "", "b.io", None)),
        ({"scheme": "https"}, Redirect(302, "https", "", None)),
        ({"scheme": "https", "port": 8443}, Redirect(302, "https", "", 8443)),
        ({"scheme": "https", "port": 443}, Redirect(302, "https", "", None)),
        ({"port": 80}, Redirect(302, "", "", None)),
        ({"port": 443}, Redirect(302, "", "", 443)),
        (
            {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}},
            Redirect(302, "", "", None, PathChange("/new", whole=True)),
        ),
        (
            {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}},
            Redirect(302, "", "", None, PathChange("/new", whole=False)),
        ),
    ],
)
def test_a_redirect(fields: dict[str, Any], redirect: Redirect) -> None:
    found = entry({"type": "RequestRedirect", "requestRedirect": fields}, to=[])
    assert found.action == redirect


def test_a_redirect_keeps_the_port_of_its_listener() -> None:
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "b.io"}}
    three = gateway(
        listener("a", 80), listener("b", 8080), listener("c", 443, "HTTPS", tls=tls("site"))
    )
    found = resolve(
        route(rule(filters=[redirect], to=[])), gateway=three, secrets={SECRET: CERTIFICATE}
    )
    ports = {
        name: rows(found.table, name)[0].action.port  # type: ignore[union-attr]
        for name in found.table.routes
    }
    assert ports == {"http/80": None, "http/8080": 8080, "https/443/c": None}


@pytest.mark.parametrize(
    ("fields", "hostname", "path"),
    [
        ({"hostname": "B.io"}, "b.io", None),
        (
            {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/v1"}},
            "",
            PathChange("/v1", whole=True),
        ),
        (
            {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}},
            "",
            PathChange("/", whole=False),
        ),
    ],
)
def test_a_rewrite(fields: dict[str, Any], hostname: str, path: PathChange | None) -> None:
    found = entry({"type": "URLRewrite", "urlRewrite": fields})
    assert found.action == Forward((Backend(POOL),), hostname, path)


@pytest.mark.parametrize(
    ("share", "numerator", "denominator"),
    [
        ({}, 100, 100),
        ({"percent": 5}, 5, 100),
        ({"fraction": {"numerator": 1, "denominator": 1000}}, 1000, 1_000_000),
        ({"fraction": {"numerator": 7}}, 7, 100),
        ({"fraction": {"numerator": 3, "denominator": 10_000}}, 3, 10_000),
    ],
)
def test_a_mirror(share: dict[str, Any], numerator: int, denominator: int) -> None:
    found = entry({"type": "RequestMirror", "requestMirror": {"backendRef": WEB, **share}})
    mirror = Mirror(ServicePort("default", "web", 80), numerator, denominator)
    assert found.action.mirrors == (mirror,)
    assert found.action.backends == (Backend(POOL),)


def test_a_mirror_to_a_pool_is_not_supported() -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": POOL_REF}}
    found = resolve(route(rule(filters=[mirror])))
    assert said(found)["ResolvedRefs"].reason == "InvalidKind"
    assert rows(found.table)[0].action == Forward((Backend(POOL),))


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ([{"type": "CORS"}], "filter CORS is not supported"),
        ([{"type": "RequestRedirect", "requestRedirect": {"statusCode": 300}}], "300 is not one"),
        (
            [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "Other"}}}],
            "'Other' is not supported",
        ),
        (
            [
                {"type": "RequestRedirect", "requestRedirect": {}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "a.io"}},
            ],
            "exclude each other",
        ),
    ],
)
def test_what_cannot_be_done_is_never_skipped(filters: list[dict[str, Any]], text: str) -> None:
    found = resolve(route(rule(filters=filters)))
    assert text in said(found)["Accepted"].message
    assert said(found)["Accepted"].status == "False"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10s", 10.0), ("1h30m", 5400.0), ("250ms", 0.25), ("0s", 0.0), ("1m1s1ms", 61.001)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["10", "1.5s", "s", "-1s", "1d", "123456s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)
    found = resolve(route(rule(timeouts={"request": text})))
    assert "timeouts.request" in said(found)["Accepted"].message


def test_timeouts() -> None:
    found = entry(timeouts={"request": "10s", "backendRequest": "2s"})
    assert (found.action.timeout, found.action.backend_timeout) == (10.0, 2.0)


@pytest.mark.parametrize(
    ("filters", "matches", "text"),
    [
        (_header("a b", "1"), (), "'a b' is not the name of a header"),
        (_header(":path", "1"), (), "':path' is not the name of a header"),
        (_header("Host", "a.io"), (), "use a URLRewrite"),
        (_header("a", "1\r\nb: 2"), (), "has control characters"),
        ((), ({"method": "G T"},), "'G T' is not a method"),
        ((), ({"path": {"value": "/a?b=c"}},), "'/a?b=c' is not a path"),
        ((), ({"path": {"value": "a", "type": "Exact"}},), "'a' is not a path"),
        ((), ({"headers": [{"name": "a:", "value": "1"}]},), "'a:' is not a header name"),
        (
            ({"type": "RequestRedirect", "requestRedirect": {"scheme": "ftp"}},),
            (),
            "'ftp' is not supported",
        ),
        (
            (
                {
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "a"}},
                },
            ),
            (),
            "'a' is not a path",
        ),
        (
            ({"type": "RequestMirror", "requestMirror": {"backendRef": WEB, "percent": 101}},),
            (),
            "101/100 is not a share",
        ),
    ],
)
def test_what_envoy_would_reject_costs_its_own_rule_alone(
    filters: Sequence[dict[str, Any]], matches: Sequence[dict[str, Any]], text: str
) -> None:
    bad = rule(*matches, filters=list(filters))
    found = resolve(route(bad, rule({"path": {"value": "/good"}})), services=SERVICES)
    assert text in said(found)["PartiallyInvalid"].message
    assert Forward((Backend(POOL),)) in [one.action for one in rows(found.table)]
    assert Forward() in [one.action for one in rows(found.table)]
