"""Which entry a request gets: the order of precedence, hostnames of several listeners, and a comparison of
random tables with the rules of the Gateway API taken word by word."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.gateway.hostnames import covers, intersection, owner, patterns
from epp_client.gateway.regex import MAX_LENGTH, regex_fault
from epp_client.gateway.table import Entry, Match, PathKind, Routes
from tests.gateway.objects import gateway, listener, path, resolve, route, rows, rule, said


@dataclass(frozen=True)
class Request:
    """What is compared."""

    host: str = "a.example.com"
    path: str = "/"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


def envoy_takes(routes: Routes, request: Request) -> Entry | None:
    """What Envoy does with a table: the most specific virtual host, and its first entry that matches."""
    names = {host.hostname: host for host in routes.hosts}
    chosen = next((names[p] for p in _envoy_order(request.host) if p in names), None)
    if chosen is None:
        return None
    return next((one for one in chosen.entries if matches(one.match, request)), None)


def _envoy_order(host: str) -> Iterator[str]:
    """Exact, then the longest suffix, then `*`, as Envoy looks hostnames up."""
    yield host
    for at in [found.start() for found in re.finditer(r"\.", host)]:
        yield f"*{host[at:]}"
    yield "*"


def matches(match: Match, request: Request) -> bool:
    """Whether every condition is true."""
    if match.path.kind is PathKind.EXACT:
        same = match.path.value == request.path
    else:
        prefix = match.path.value.rstrip("/")
        same = request.path == prefix or request.path.startswith(prefix + "/")
    return (
        same
        and match.method in ("", request.method)
        and all(request.headers.get(one.name) == one.value for one in match.headers)
        and all(request.query.get(one.name) == one.value for one in match.query)
    )


# --- the order of precedence ---

ORDERED = [
    path("/a/b", "Exact"),
    path("/a/b"),
    {**path("/a"), "method": "GET"},
    {**path("/a"), "headers": [{"name": n, "value": "1"} for n in "xy"]},
    {**path("/a"), "headers": [{"name": "x", "value": "1"}]},
    {**path("/a"), "queryParams": [{"name": n, "value": "1"} for n in "xy"]},
    {**path("/a"), "queryParams": [{"name": "x", "value": "1"}]},
    path("/a"),
    {},
]


@pytest.mark.parametrize("turned", [False, True])
def test_matches_are_in_the_order_of_the_specification(turned: bool) -> None:
    given = ORDERED[::-1] if turned else ORDERED
    found = rows(resolve(route(*(rule(match) for match in given))).table)
    alone = [rows(resolve(route(rule(match))).table)[0].match for match in ORDERED]
    assert [entry.match for entry in found] == alone


def test_of_equal_matches_the_older_route_wins_then_its_name_then_the_order_within() -> None:
    found = resolve(
        route(rule(), rule(), name="b", created="2026-01-01T00:00:00Z"),
        route(rule(), name="c", created="2025-01-01T00:00:00Z"),
        route(rule(), name="a", created="2026-01-01T00:00:00Z"),
    )
    assert [entry.source for entry in rows(found.table)] == [
        "HTTPRoute default/c rules[0]",
        "HTTPRoute default/a rules[0]",
        "HTTPRoute default/b rules[0]",
        "HTTPRoute default/b rules[1]",
    ]


@pytest.mark.parametrize(("value", "read"), [("/a/", "/a"), ("/", "/"), ("/a//", "/a")])
def test_a_trailing_slash_of_a_prefix_means_nothing(value: str, read: str) -> None:
    [entry] = rows(resolve(route(rule(path(value)))).table)
    assert entry.match.path.value == read


def test_header_names_are_compared_in_lower_case_and_the_first_of_equal_names_counts() -> None:
    headers = [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]
    [entry] = rows(resolve(route(rule({"headers": headers}))).table)
    assert [(one.name, one.value) for one in entry.match.headers] == [("x-a", "1")]


@pytest.mark.parametrize(
    "match",
    [
        path("/v[0-9]+/.*", "RegularExpression"),
        {"headers": [{"name": "x", "value": "a|b", "type": "RegularExpression"}]},
        {"queryParams": [{"name": "x", "value": "a|b", "type": "RegularExpression"}]},
    ],
)
def test_regular_expressions_are_served(match: dict[str, Any]) -> None:
    found = resolve(route(rule(match)))
    [entry] = rows(found.table)
    assert said(found)["Accepted"].status == "True"
    values = (entry.match.path, *entry.match.headers, *entry.match.query)
    assert any(getattr(one, "regex", False) or one[0] is PathKind.REGEX for one in values)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("(?=a)", "is not a regular expression of RE2"),
        (r"(a)\1", "is not a regular expression of RE2"),
        ("a(", "is not a regular expression of RE2"),
        (r"[\p{L}]{200}", "is too complex"),
        ("[a-z0-9-]{1,63}", ""),
        ("a" * (MAX_LENGTH + 1), "is longer than"),
        ("a+", ""),
    ],
)
def test_what_envoy_would_reject_never_gets_there(text: str, fault: str) -> None:
    assert fault in regex_fault(text)
    assert bool(fault) == bool(regex_fault(text))
    for match in (
        path(text, "RegularExpression"),
        {"headers": [{"name": "x", "value": text, "type": "RegularExpression"}]},
    ):
        found = resolve(route(rule(match)))
        assert (said(found)["Accepted"].status == "True") is not bool(fault)


@pytest.mark.parametrize(
    "match",
    [
        {"path": {"type": "Glob", "value": "/*"}},
        {"headers": [{"name": "x", "value": "1", "type": "Glob"}]},
    ],
)
def test_unknown_kinds_of_matches_are_refused(match: dict[str, Any]) -> None:
    found = resolve(route(rule(match)))
    assert said(found)["Accepted"].reason == "UnsupportedValue"


# --- hostnames ---


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("*", "a.io", "a.io"),
        ("a.io", "a.io", "a.io"),
        ("*.a.io", "b.a.io", "b.a.io"),
        ("*.a.io", "c.b.a.io", "c.b.a.io"),
        ("*.a.io", "*.b.a.io", "*.b.a.io"),
        ("*.a.io", "a.io", None),
        ("*.a.io", "ba.io", None),
        ("a.io", "b.io", None),
    ],
)
def test_the_hostnames_that_two_have(one: str, other: str, both: str | None) -> None:
    assert intersection(one, other) == intersection(other, one) == both


def test_the_patterns_of_a_hostname_begin_with_the_most_specific() -> None:
    assert [*patterns("a.b.io")] == ["a.b.io", "*.b.io", "*.io", "*"]
    assert [*patterns("*.b.io")] == ["*.b.io", "*.io", "*"]
    assert [*patterns("*")] == ["*"]
    assert owner("a.b.io", ["*", "*.io"]) == "*.io"
    assert owner("a.b.io", ["b.io"]) is None


def test_the_most_specific_hostname_goes_before_every_match() -> None:
    """Not before: Envoy stays in a virtual host, so a less specific route has to be in it too."""
    found = resolve(
        route(rule(path("/x", "Exact")), name="any"),
        route(rule(path("/x")), name="one", hostnames=["a.io"]),
    )
    sources = [entry.source for entry in rows(found.table, host="a.io")]
    assert sources == ["HTTPRoute default/one rules[0]", "HTTPRoute default/any rules[0]"]
    assert len(rows(found.table, host="*")) == 1


def test_a_request_belongs_to_the_most_specific_listener_alone() -> None:
    two = gateway(listener("all"), listener("own", hostname="a.io"))
    everywhere = route(name="all", parents=[{"name": "front", "sectionName": "all"}])
    found = resolve(everywhere, gateway=two)
    assert rows(found.table, host="a.io") == []
    assert len(rows(found.table, host="*")) == 1


def test_a_hostname_of_a_route_belongs_to_the_listener_that_has_it() -> None:
    """`a.io` is a hostname of a route on the listener `all`, and a listener of its own."""
    two = gateway(listener("all"), listener("own", hostname="a.io"))
    found = resolve(
        route(name="x", hostnames=["a.io"], parents=[{"name": "front", "sectionName": "all"}]),
        route(name="y", parents=[{"name": "front", "sectionName": "own"}]),
        gateway=two,
    )
    assert [e.source for e in rows(found.table, host="a.io")] == ["HTTPRoute default/y rules[0]"]


# --- random tables ---

HOSTS = ["a.example.com", "b.example.com", "c.b.example.com", "example.com", "other.io"]
PATTERNS = [*HOSTS, "*.example.com", "*.b.example.com", "*"]
VALUES = st.lists(st.sampled_from("xy"), unique=True, max_size=2)


@st.composite
def raw_matches(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["PathPrefix", "Exact"]))
    found: dict[str, Any] = {
        "path": {"type": kind, "value": draw(st.sampled_from(["/", "/a", "/a/b", "/a/"]))}
    }
    if draw(st.booleans()):
        found["method"] = draw(st.sampled_from(["GET", "POST"]))
    for key in ("headers", "queryParams"):
        if names := draw(VALUES):
            found[key] = [{"name": name, "value": draw(st.sampled_from("12"))} for name in names]
    return found


@st.composite
def raw_routes(draw: st.DrawFn, listeners: Sequence[str], index: int) -> Any:
    section = draw(st.sampled_from([*listeners, ""]))
    parent = {"name": "front", **({"sectionName": section} if section else {})}
    rules = draw(st.lists(st.lists(raw_matches(), min_size=1, max_size=2), min_size=1, max_size=2))
    return route(
        *(rule(*found) for found in rules),
        name=f"r{index}",
        hostnames=draw(st.lists(st.sampled_from(PATTERNS[:-1]), unique=True, max_size=2)),
        parents=[parent],
        created=f"202{draw(st.integers(0, 3))}-01-01T00:00:00Z",
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    hostnames = draw(st.lists(st.sampled_from(PATTERNS), unique=True, min_size=1, max_size=3))
    names = [f"l{at}" for at in range(len(hostnames))]
    listeners = [
        listener(name, **({} if hostname == "*" else {"hostname": hostname}))
        for name, hostname in zip(names, hostnames, strict=True)
    ]
    count = draw(st.integers(0, 4))
    return listeners, [draw(raw_routes(names, at)) for at in range(count)]


requests = st.builds(
    Request,
    st.sampled_from([*HOSTS, "deep.c.b.example.com"]),
    st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/"]),
    st.sampled_from(["GET", "POST"]),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
)


def by_the_specification(listeners: list[Any], routes: list[Any], request: Request) -> str | None:
    """The rule that the Gateway API gives a request, found without any table."""
    # "The most specific hostname of a listener": exact, then the longest wildcard, then none.
    serving = [one for one in listeners if covers(one.get("hostname", "*"), request.host)]
    if not serving:
        return None
    chosen = max(serving, key=lambda one: _specificity(one.get("hostname", "*")))
    best: tuple[Any, ...] | None = None
    for raw in routes:
        [parent] = raw["spec"]["parentRefs"]
        if parent.get("sectionName", chosen["name"]) != chosen["name"]:
            continue
        mine = raw["spec"].get("hostnames") or ["*"]
        listeners_own = chosen.get("hostname", "*")
        having = [
            both
            for one in mine
            if (both := intersection(one, listeners_own)) is not None and covers(both, request.host)
        ]
        if not having:
            continue
        host_rank = max(map(_specificity, having))
        for index, a_rule in enumerate(raw["spec"]["rules"]):
            for match in a_rule["matches"]:
                if not _raw_matches(match, request):
                    continue
                kind, value = match["path"]["type"], match["path"]["value"].rstrip("/") or "/"
                rank = (
                    *(-part for part in host_rank),
                    kind != "Exact",
                    -len(value) if kind != "Exact" else 0,
                    "method" not in match,
                    -len(match.get("headers", ())),
                    -len(match.get("queryParams", ())),
                    raw["metadata"]["creationTimestamp"],
                    raw["metadata"]["name"],
                    index,
                )
                found = (rank, f"HTTPRoute default/{raw['metadata']['name']} rules[{index}]")
                best = min(best, found) if best is not None else found
    return best[1] if best is not None else None


def _specificity(hostname: str) -> tuple[int, int]:
    """Characters of a hostname without a wildcard, then characters of any."""
    return (0 if "*" in hostname else len(hostname), len(hostname) if hostname != "*" else 0)


def _raw_matches(match: Mapping[str, Any], request: Request) -> bool:
    value = match["path"]["value"]
    if match["path"]["type"] == "Exact":
        same = request.path == value
    else:
        wanted = [part for part in value.split("/") if part]
        same = [part for part in request.path.split("/") if part][: len(wanted)] == wanted
    return (
        same
        and match.get("method", request.method) == request.method
        and all(request.headers.get(o["name"]) == o["value"] for o in match.get("headers", ()))
        and all(request.query.get(o["name"]) == o["value"] for o in match.get("queryParams", ()))
    )


@settings(max_examples=300)
@given(worlds(), st.lists(requests, min_size=1, max_size=8))
def test_a_table_gives_each_request_the_rule_that_the_specification_gives_it(
    world: tuple[list[Any], list[Any]], asked: list[Request]
) -> None:
    listeners, routes = world
    table = resolve(*routes, gateway=gateway(*listeners)).table
    for request in asked:
        found = envoy_takes(table.routes["http/80"], request)
        assert (found.source if found else None) == by_the_specification(listeners, routes, request)


@settings(max_examples=100)
@given(worlds(), worlds())
def test_what_was_read_before_changes_nothing(
    before: tuple[list[Any], list[Any]], after: tuple[list[Any], list[Any]]
) -> None:
    """A resolution with the last one at hand equals one from nothing."""
    first = resolve(*before[1], gateway=gateway(*before[0]))
    fresh = resolve(*after[1], gateway=gateway(*after[0]))
    assert resolve(*after[1], gateway=gateway(*after[0]), previous=first) == fresh
