"""How the rows of a table are shown."""

from typing import Any

import pytest

from epp_client.gateway.rows import table_rows
from tests.gateway.objects import (
    POOL_REF,
    gateway,
    listener,
    path,
    resolve,
    route,
    rule,
    service,
)


def shown(*rules: Any) -> list[tuple[str, str]]:
    """Match and target of each row."""
    found = resolve(route(*rules), services={("default", "web"): service(80)})
    return [(row.match, row.to) for row in table_rows(found.table)]


@pytest.mark.parametrize(
    ("match", "text"),
    [
        ({}, "/"),
        (path("/a"), "/a"),
        (path("/a", "Exact"), "/a (exact)"),
        (path("/a.*", "RegularExpression"), "/a.* (regex)"),
        (
            {
                "method": "POST",
                "headers": [
                    {"name": "X-A", "value": "1"},
                    {"name": "b", "value": "2+", "type": "RegularExpression"},
                ],
                "queryParams": [{"name": "q", "value": "3"}],
            },
            "POST / x-a=1 b~2+ ?q=3",
        ),
    ],
)
def test_a_match(match: dict[str, Any], text: str) -> None:
    assert [found for found, _ in shown(rule(match))] == [text]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"scheme": "https"}, "redirect 302 https://…"),
        ({"hostname": "b.io", "port": 8080}, "redirect 302 //b.io:8080"),
        ({"scheme": "https", "hostname": "b.io", "statusCode": 301}, "redirect 301 https://b.io"),
        (
            {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}},
            "redirect 302 /new",
        ),
        (
            {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new/"}},
            "redirect 302 /new/…",
        ),
    ],
)
def test_a_redirect(fields: dict[str, Any], text: str) -> None:
    redirect = {"type": "RequestRedirect", "requestRedirect": fields}
    assert shown(rule(filters=[redirect], to=[])) == [("/", text)]


WEB = {"name": "web", "port": 80}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (rule(), "pool default/llama"),
        (rule(to=[]), "500"),
        (rule(to=[{**WEB, "name": "gone"}]), "500"),
        (
            rule(to=[{**POOL_REF, "weight": 2}, {**WEB, "weight": 1}]),
            "pool default/llama 66.7 %, service default/web:80 33.3 %",
        ),
        (
            rule(timeouts={"request": "10s", "backendRequest": "2s"}),
            "pool default/llama; timeout 10 s; 2 s a try",
        ),
        (rule(timeouts={"request": "0s"}), "pool default/llama; no timeout"),
        (
            rule(
                filters=[
                    {
                        "type": "RequestMirror",
                        "requestMirror": {"backendRef": WEB, "percent": 5},
                    },
                    {
                        "type": "URLRewrite",
                        "urlRewrite": {
                            "hostname": "b.io",
                            "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"},
                        },
                    },
                    {
                        "type": "RequestHeaderModifier",
                        "requestHeaderModifier": {"add": [{"name": "a", "value": "1"}]},
                    },
                    {
                        "type": "ResponseHeaderModifier",
                        "responseHeaderModifier": {"remove": ["b", "c"]},
                    },
                ]
            ),
            "pool default/llama; host b.io; path /x; mirror default/web:80 5 %; "
            "add request header a; remove response header b, c",
        ),
    ],
)
def test_where_requests_go(found: Any, text: str) -> None:
    assert shown(found) == [("/", text)]


def test_the_listener_of_a_row() -> None:
    table = resolve(route(), gateway=gateway(listener("a", 8080))).table
    [row] = table_rows(table)
    assert (row.listener, row.hostname) == ("http 8080", "*")
    assert row.source == "HTTPRoute default/chat rules[0]"
