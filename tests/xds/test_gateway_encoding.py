"""What Envoy is sent for a Gateway's table, read by Envoy's whole messages.
What Envoy makes of it is in tests/e2e/test_gateway.py."""

from collections.abc import Iterable
from datetime import timedelta
from random import Random
from typing import Any

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

import epp_client.envoy.pb.routes_pb2 as pb
from epp_client.envoy.clusters import service_cluster
from epp_client.envoy.edge import Edge, GatewayEdge, Terms
from epp_client.envoy.gateway_listeners import gateway_listener
from epp_client.envoy.gateway_routes import MAX_FRESH, RouteWriter
from epp_client.envoy.secrets import serialized_secret
from epp_client.envoy.service_clusters import serialized_service_cluster, service_cluster_name
from epp_client.gateway.table import (
    Backend,
    Certificate,
    Chain,
    Entry,
    Forward,
    HeaderChange,
    Host,
    Listener,
    Match,
    Mirror,
    PathChange,
    PathKind,
    PathMatch,
    Redirect,
    Routes,
    SecretName,
    ServicePort,
    ValueMatch,
)
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import Modes, RequestMode, ResponseMode

LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")
WEB = ServicePort("default", "web", 80)

# `bytes` in our messages that are messages in Envoy's.
WRITTEN: dict[str, Any] = {"virtual_hosts": pb.VirtualHost, "routes": pb.Route}


@pytest.mark.parametrize(
    ("ours", "envoys"),
    [
        (pb.RouteConfiguration, route_v3.RouteConfiguration),
        (pb.ExtProcPerRoute, ext_proc_v3.ExtProcPerRoute),
        (pb.Secret, tls_v3.Secret),
    ],
)
def test_every_field_has_envoys_number_and_type(ours: Any, envoys: Any) -> None:
    compare(ours.DESCRIPTOR, envoys)


def compare(ours: Any, envoys: Any) -> None:
    for field in ours.fields:
        meta = envoys._betterproto.meta_by_field_name[field.name]
        where = f"{ours.name}.{field.name}"
        assert meta.number == field.number, where
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            assert meta.proto_type == "map", where
            compare(
                message.fields_by_name["value"].message_type, envoy_class(envoys, field, ".value")
            )
            continue
        assert meta.repeated == field.is_repeated, where
        if field.name in WRITTEN:
            compare(WRITTEN[field.name].DESCRIPTOR, envoy_class(envoys, field))
        elif meta.unwrap is not None:
            assert message.full_name == f"google.protobuf.{meta.unwrap().__name__}", where
        elif message is not None:
            assert meta.proto_type == "message", where
            compare(message, envoy_class(envoys, field))
        else:
            names = {FieldDescriptor.TYPE_UINT32: ("uint32", "enum")}
            kinds = {FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BOOL: "bool"}
            kinds |= {FieldDescriptor.TYPE_BYTES: "bytes"}
            assert meta.proto_type in names.get(field.type, (kinds.get(field.type),)), where


def envoy_class(envoys: Any, field: FieldDescriptor, suffix: str = "") -> Any:
    return envoys._betterproto.cls_by_field[field.name + suffix]


def random_entry(number: int) -> Entry:
    """Any entry; always the same for a number."""
    dice = Random(number)

    def some(*kinds: Any, most: int) -> tuple[Any, ...]:
        return tuple(dice.choice(kinds)() for _ in range(dice.randint(0, most)))

    def name() -> str:
        return dice.choice(["a", "b", "x-c"])

    def pair() -> tuple[str, str]:
        return name(), name()

    def headers() -> HeaderChange:
        return HeaderChange(some(pair, most=2), some(pair, most=1), some(name, most=1))

    def value() -> ValueMatch:
        return ValueMatch(name(), name(), dice.random() < 0.5)

    def new_path() -> PathChange | None:
        change = PathChange(dice.choice(["/", "", "/x", "/x/"]), dice.random() < 0.5)
        return dice.choice([None, change])

    def backend() -> Backend:
        target = dice.choice([LLAMA, QWEN, WEB, None])
        return Backend(target, dice.randint(1, 100), headers(), headers())

    def forward() -> Forward:
        mirrors = some(lambda: Mirror(WEB, dice.randint(1, 9)), most=1)
        timeouts = dice.choice([None, 0.0, 1.5]), dice.choice([None, 0.25, 1.0])
        host = dice.choice(["", "h.example.com"])
        return Forward(some(backend, most=3), host, new_path(), mirrors, *timeouts)

    def redirect() -> Redirect:
        scheme, host = dice.choice(["", "http", "https"]), dice.choice(["", "h.example.com"])
        port = dice.choice([None, 80, 443, 8443])
        return Redirect(dice.choice([301, 302, 303, 307, 308]), scheme, host, port, new_path())

    path = PathMatch(dice.choice(list(PathKind)), dice.choice(["/", "/a", "/a/b"]))
    method = dice.choice(["", "GET"])
    match = Match(path, method, some(value, most=2), some(value, most=2))
    action = redirect() if dice.random() < 0.3 else forward()
    return Entry(match, action, headers(), headers(), f"HTTPRoute default/{number} rules[0]")


entries = st.integers(0, 400).map(random_entry)
tables = st.lists(
    st.builds(
        Host,
        st.sampled_from(["*", "*.example.com", "a.example.com"]),
        st.lists(entries, max_size=3).map(tuple),
    ),
    max_size=2,
    unique_by=lambda host: host.hostname,
).map(lambda hosts: Routes("80", tuple(hosts)))


@settings(max_examples=40)
@given(tables)
def test_routes_are_in_order_and_each_goes_where_its_entry_says(routes: Routes) -> None:
    made = read(routes)
    assert (made.name, made.ignore_port_in_host_matching) == ("80", True)
    assert [host.domains for host in made.virtual_hosts] == [[h.hostname] for h in routes.hosts]
    for host, virtual in zip(routes.hosts, made.virtual_hosts, strict=True):
        left = list(virtual.routes)
        for entry in host.entries:
            mine = [left.pop(0)]
            if left and twins(mine[0], left[0]):
                mine.append(left.pop(0))
            for route in mine:
                assert route.name.removesuffix(" with trailers") == entry.source
                check_action(route, entry)
        assert left == []


def twins(one: route_v3.Route, other: route_v3.Route) -> bool:
    """Whether the first is an exception from the second."""
    if one.name == f"{other.name} with trailers":
        return True
    if one.name != other.name:
        return False
    return one.redirect is not None and any(
        header.name == ":authority"
        for header in one.match.headers  # type: ignore[union-attr]
    )


def check_action(route: route_v3.Route, entry: Entry) -> None:
    action = entry.action
    if isinstance(action, Redirect):
        assert route.redirect is not None
        return
    if not action.backends:
        assert route.direct_response is not None
        assert route.direct_response.status == 500
        return
    assert route.route is not None
    enabled = dict(pools_of(route))
    expected = {
        f"inferencepool/default/{b.target.name}": str(b.target)
        for b in action.backends
        if isinstance(b.target, PoolName)
    }
    assert enabled == expected
    weighted = route.route.weighted_clusters
    if weighted is not None:
        assert [cluster.weight for cluster in weighted.clusters] == [
            b.weight for b in action.backends
        ]
    else:
        assert len(action.backends) == 1
    timeout = 0.0 if action.timeout is None else action.timeout
    assert route.route.timeout == timedelta(seconds=timeout)
    assert route.route.idle_timeout == timedelta(seconds=7200)
    policy = route.route.retry_policy
    retried = policy is not None and bool(policy.retry_on)
    assert retried == (not route.name.endswith(" with trailers"))
    assert route.request_body_buffer_limit == (16 << 20 if expected and retried else None)
    per_try = None if action.backend_timeout is None else timedelta(seconds=action.backend_timeout)
    assert (policy.per_try_timeout if policy else None) == per_try


def pools_of(route: route_v3.Route) -> Iterable[tuple[str, str]]:
    """Clusters with ext_proc, and the pool that the sidecar is told."""
    assert route.route is not None
    weighted = route.route.weighted_clusters
    parts: list[Any] = [(route.route.cluster, route)]
    if weighted is not None:
        assert route.typed_per_filter_config == {}
        parts = [(cluster.name, cluster) for cluster in weighted.clusters]
    for name, part in parts:
        for value in part.typed_per_filter_config.values():
            overrides = value.unpack().overrides
            yield name, overrides.grpc_initial_metadata[0].value


DEFAULT = Terms()
SKIP = Modes(RequestMode.HEADERS, ResponseMode.SKIP)


def read(routes: Routes, terms: Terms = DEFAULT) -> route_v3.RouteConfiguration:
    return route_v3.RouteConfiguration.parse(RouteWriter().write([routes], terms)[routes.name])


@given(st.lists(st.tuples(tables, st.sampled_from([(), (LLAMA,)])), min_size=1, max_size=6))
def test_what_was_kept_of_earlier_tables_changes_nothing(
    steps: list[tuple[Routes, tuple[PoolName, ...]]],
) -> None:
    writer = RouteWriter()
    for routes, skip in steps:
        terms = Terms(modes=dict.fromkeys(skip, SKIP))
        assert writer.write([routes], terms) == RouteWriter().write([routes], terms)
        assert writer._written.keys() == {("80", host.hostname) for host in routes.hosts}
        for (_, hostname), written in writer._written.items():
            [host] = [one for one in routes.hosts if one.hostname == hostname]
            assert written.entries.keys() == set(host.entries)


def rows(count: int) -> tuple[Entry, ...]:
    action = Forward((Backend(LLAMA),))
    return tuple(
        Entry(Match(PathMatch(value=f"/{n}")), action, source=f"HTTPRoute default/{n}")
        for n in range(count)
    )


def test_only_changed_entries_are_encoded_and_named() -> None:
    writer, terms = RouteWriter(), Terms()
    before = rows(30)
    writer.write([Routes("80", (Host("*", before),)), Routes("443", (Host("*", before),))], terms)
    assert len(writer.fresh) == MAX_FRESH
    changed = before[7]._replace(action=Forward())
    after = (*before[:7], changed, *before[8:])
    writer.write([Routes("80", (Host("*", after),)), Routes("443", (Host("*", before),))], terms)
    assert writer.fresh == ("HTTPRoute default/7",)


def test_modes_are_those_of_their_pool_alone() -> None:
    action = Forward((Backend(LLAMA), Backend(QWEN)))
    made = read(Routes("80", (Host("*", (Entry(Match(), action),)),)), Terms(modes={QWEN: SKIP}))
    for route in made.virtual_hosts[0].routes:
        assert route.route is not None
        assert route.route.weighted_clusters is not None
        settings: list[Any] = [
            value.unpack()
            for cluster in route.route.weighted_clusters.clusters
            for value in cluster.typed_per_filter_config.values()
        ]
        modes = [setting.overrides.processing_mode for setting in settings]
        assert modes[0] is None
        assert modes[1].response_body_mode == ext_proc_v3.ProcessingModeBodySendMode.NONE
        assert modes[1].request_body_mode == ext_proc_v3.ProcessingModeBodySendMode.NONE


def test_without_retries_a_pool_has_one_route() -> None:
    made = read(Routes("80", (Host("*", rows(1)),)), Terms(retries=False))
    [route] = made.virtual_hosts[0].routes
    assert route.route is not None
    assert route.route.retry_policy is None


@pytest.mark.parametrize("protocol", AppProtocol)
def test_a_serialized_cluster_of_a_service_is_the_one_that_envoys_messages_make(
    protocol: AppProtocol,
) -> None:
    made = service_cluster(service_cluster_name(WEB), protocol)
    assert cluster_v3.Cluster.parse(serialized_service_cluster(WEB, protocol)) == made
    assert made.name == "service/default/web/80"


def test_a_secret_has_its_chain_and_key() -> None:
    value = serialized_secret(SecretName("default", "tls"), Certificate(b"chain", b"key"))
    secret = tls_v3.Secret.parse(value)
    assert secret.name == "secret/default/tls"
    assert secret.tls_certificate is not None
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"chain"  # type: ignore[union-attr]
    assert secret.tls_certificate.private_key.inline_bytes == b"key"  # type: ignore[union-attr]


def manager_of(chain: listener_v3.FilterChain) -> hcm_v3.HttpConnectionManager:
    [only] = chain.filters
    manager = only.typed_config.unpack()  # type: ignore[union-attr]
    assert isinstance(manager, hcm_v3.HttpConnectionManager)
    return manager


def test_a_plaintext_listener_names_its_routes() -> None:
    edge = GatewayEdge(Edge(idle_timeout=60, upgrades=()), "127.0.0.1", access_log=False)
    made = gateway_listener(Listener(8080, (Chain("all"),)), edge)
    assert made.name == "gateway/8080"
    assert made.address.socket_address.port_value == 8080  # type: ignore[union-attr]
    assert made.listener_filters == []
    [chain] = made.filter_chains
    assert (chain.transport_socket, chain.filter_chain_match) == (None, None)
    manager = manager_of(chain)
    assert manager.rds is not None
    assert manager.rds.route_config_name == "all"
    assert manager.stream_idle_timeout == timedelta(seconds=60)
    assert (manager.upgrade_configs, manager.access_log) == ([], [])


def test_chains_of_a_tls_listener_have_their_names_and_secrets() -> None:
    one, other = SecretName("default", "one"), SecretName("other", "two")
    chains = (
        Chain("a", "a.example.com", (one,)),
        Chain("b", "*.example.com", (one, other)),
        Chain("c", "*", (other,)),
    )
    made = gateway_listener(Listener(443, chains), GatewayEdge())
    assert len(made.listener_filters) == 1
    server_names, secrets = [], []
    for chain in made.filter_chains:
        matched = chain.filter_chain_match
        server_names.append(matched.server_names if matched else [])
        context = chain.transport_socket.typed_config.unpack().common_tls_context  # type: ignore[union-attr]
        assert context.alpn_protocols == ["h2", "http/1.1"]
        secrets.append([config.name for config in context.tls_certificate_sds_secret_configs])
    assert server_names == [["a.example.com"], ["*.example.com"], []]
    assert secrets == [
        ["secret/default/one"],
        ["secret/default/one", "secret/other/two"],
        ["secret/other/two"],
    ]
