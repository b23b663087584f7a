"""Which listeners of a Gateway are served, and what its status says."""

from typing import Any

import pytest

from epp_client.gateway.table import Chain, SecretName
from epp_client.pool.problems import Severity
from tests.gateway.objects import (
    CERTIFICATE,
    gateway,
    grant,
    listener,
    of_gateway,
    of_listener,
    reasons,
    resolve,
    route,
    tls,
)

SECRET = SecretName("default", "site")
HTTPS = {"tls": tls("site")}


def test_a_plain_listener_has_every_condition() -> None:
    found = resolve()
    assert reasons(of_listener(found)) == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Conflicted": ("False", "NoConflicts"),
    }
    assert of_listener(found).supported_kinds == ("HTTPRoute",)
    assert of_gateway(found)["Accepted"].status == "True"
    assert of_gateway(found)["Programmed"].status == "True"
    assert found.statuses.gateway.generation == 1


@pytest.mark.parametrize("protocol", ["TCP", "TLS", "example.org/own"])
def test_other_protocols_are_not_accepted(protocol: str) -> None:
    found = resolve(gateway=gateway(listener("odd", 81, protocol), listener()))
    odd = of_listener(found, "odd")
    assert reasons(odd)["Accepted"] == ("False", "UnsupportedProtocol")
    assert reasons(odd)["Programmed"] == ("False", "Invalid")
    assert odd.supported_kinds == ()
    accepted = of_gateway(found)["Accepted"]
    assert (accepted.status, accepted.reason) == ("True", "ListenersNotValid")
    assert [one.port for one in found.table.listeners] == [80]


def test_a_gateway_without_a_valid_listener_is_not_accepted() -> None:
    found = resolve(gateway=gateway(listener(protocol="UDP")))
    accepted = of_gateway(found)["Accepted"]
    assert (accepted.status, accepted.reason) == ("False", "ListenersNotValid")
    assert of_gateway(found)["Programmed"].reason == "Invalid"


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (listener("b", 80, "HTTPS", **HTTPS), "ProtocolConflict"),
        (listener("b", 80), "HostnameConflict"),
    ],
)
def test_of_listeners_that_exclude_each_other_the_first_one_is_served(
    second: dict[str, Any], reason: str
) -> None:
    found = resolve(gateway=gateway(listener("a", 80), second), secrets={SECRET: CERTIFICATE})
    assert reasons(of_listener(found, "a"))["Conflicted"] == ("False", "NoConflicts")
    assert reasons(of_listener(found, "b"))["Conflicted"] == ("True", reason)
    assert reasons(of_listener(found, "b"))["Accepted"] == ("False", reason)
    assert [one.chains for one in found.table.listeners] == [(Chain("http/80"),)]


def test_listeners_of_one_port_and_several_hostnames_are_one_listener_of_envoy() -> None:
    found = resolve(gateway=gateway(listener("a", hostname="a.io"), listener("b", hostname="b.io")))
    [one] = found.table.listeners
    assert one.chains == (Chain("http/80"),)
    assert [host.hostname for host in found.table.routes["http/80"].hosts] == ["a.io", "b.io"]


def test_an_https_listener_has_a_chain_of_its_own_with_its_certificates() -> None:
    two = gateway(
        listener("a", 443, "HTTPS", hostname="a.io", **HTTPS),
        listener("b", 443, "HTTPS", **HTTPS),
    )
    found = resolve(route(), gateway=two, secrets={SECRET: CERTIFICATE})
    [one] = found.table.listeners
    assert one.chains == (
        Chain("https/443/a", "a.io", (SECRET,)),
        Chain("https/443/b", "*", (SECRET,)),
    )
    assert found.table.certificates == {SECRET: CERTIFICATE}
    assert found.references.secrets == {SECRET}


@pytest.mark.parametrize(
    ("section", "secrets", "reason"),
    [
        (tls("site"), {}, "InvalidCertificateRef"),
        (tls("site"), {SECRET: "tls.crt is not PEM"}, "InvalidCertificateRef"),
        (tls(), {}, "InvalidCertificateRef"),
        (
            {"certificateRefs": [{"name": "site", "kind": "ConfigMap"}]},
            {SECRET: CERTIFICATE},
            "InvalidCertificateRef",
        ),
        (
            {"certificateRefs": [{"name": "site", "group": "example.org"}]},
            {SECRET: CERTIFICATE},
            "InvalidCertificateRef",
        ),
        (
            {"certificateRefs": [{"name": "site", "namespace": "away"}]},
            {SecretName("away", "site"): CERTIFICATE},
            "RefNotPermitted",
        ),
    ],
)
def test_a_listener_without_a_usable_certificate_is_not_programmed_and_keeps_its_routes(
    section: dict[str, Any], secrets: dict[SecretName, Any], reason: str
) -> None:
    one = gateway(listener("site", 443, "HTTPS", tls=section))
    found = resolve(route(), gateway=one, secrets=secrets)
    status = of_listener(found, "site")
    assert reasons(status)["ResolvedRefs"] == ("False", reason)
    assert reasons(status)["Programmed"] == ("False", "Invalid")
    assert reasons(status)["Accepted"] == ("True", "Accepted")
    assert status.attached_routes == 1
    assert found.table.listeners == ()


@pytest.mark.parametrize(
    ("to", "permitted"), [({"name": "site"}, True), ({}, True), ({"name": "other"}, False)]
)
def test_a_secret_of_another_namespace_needs_a_grant(to: dict[str, str], permitted: bool) -> None:
    secret = SecretName("away", "site")
    section = {"certificateRefs": [{"name": "site", "namespace": "away"}]}
    found = resolve(
        gateway=gateway(listener("site", 443, "HTTPS", tls=section)),
        secrets={secret: CERTIFICATE},
        grants=[grant("away", "default", source_kind="Gateway", kind="Secret", **to)],
    )
    assert bool(found.table.certificates) is permitted
    # A Secret is not even asked for without permission.
    assert (secret in found.references.secrets) is permitted


def test_one_usable_certificate_is_enough() -> None:
    one = gateway(listener("site", 443, "HTTPS", tls=tls("gone", "site")))
    found = resolve(gateway=one, secrets={SECRET: CERTIFICATE})
    assert reasons(of_listener(found, "site"))["ResolvedRefs"][0] == "False"
    assert reasons(of_listener(found, "site"))["Programmed"][0] == "True"
    assert found.table.listeners[0].chains[0].certificates == (SECRET,)


def test_passthrough_is_not_supported() -> None:
    one = gateway(listener("site", 443, "HTTPS", tls=tls("site", mode="Passthrough")))
    found = resolve(gateway=one, secrets={SECRET: CERTIFICATE})
    assert reasons(of_listener(found, "site"))["Accepted"] == ("False", "UnsupportedValue")


@pytest.mark.parametrize(
    ("kinds", "supported"),
    [
        ([{"kind": "TCPRoute"}], ()),
        ([{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}], ("HTTPRoute",)),
        ([{"kind": "HTTPRoute", "group": "example.org"}], ()),
    ],
)
def test_other_kinds_of_routes_are_said_to_be_unsupported(
    kinds: list[dict[str, str]], supported: tuple[str, ...]
) -> None:
    found = resolve(route(), gateway=gateway(listener(allowedRoutes={"kinds": kinds})))
    status = of_listener(found)
    assert reasons(status)["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert status.supported_kinds == supported
    assert status.attached_routes == len(supported)


@pytest.mark.parametrize(
    ("reference", "config_maps", "accepted"),
    [
        ({"group": "", "kind": "ConfigMap", "name": "own"}, {("default", "own")}, True),
        ({"group": "", "kind": "ConfigMap", "name": "own"}, set(), False),
        ({"group": "example.org", "kind": "Own", "name": "own"}, set(), False),
    ],
)
def test_parameters_that_cannot_be_read_are_invalid(
    reference: dict[str, str], config_maps: set[tuple[str, str]], accepted: bool
) -> None:
    one = gateway(infrastructure={"parametersRef": reference})
    found = resolve(gateway=one, config_maps=config_maps)
    assert of_gateway(found)["Accepted"].status == str(accepted)
    assert of_gateway(found)["Accepted"].reason == ("Accepted" if accepted else "InvalidParameters")
    assert found.references.config_maps == (
        {("default", "own")} if reference["kind"] == "ConfigMap" else frozenset()
    )


def test_a_gateway_of_the_wrong_structure_serves_nothing() -> None:
    found = resolve(route(), gateway=gateway(listener(port=0)))
    assert found.table.listeners == ()
    assert of_gateway(found)["Accepted"].status == "False"
    assert [problem.field for problem in found.problems] == ["spec.listeners[0].port"]


def test_what_is_not_supported_is_said() -> None:
    options = {"tls": {**tls("site"), "options": {"a": "b"}}}
    one = gateway(listener("site", 443, "HTTPS", **options), addresses=[{"value": "10.0.0.1"}])
    found = resolve(gateway=one, secrets={SECRET: CERTIFICATE})
    accepted = of_gateway(found)["Accepted"]
    assert accepted.status == "True"
    assert "spec.addresses: is not supported and ignored" in accepted.message
    assert "spec.listeners[0].tls.options" in accepted.message
    assert {problem.severity for problem in found.problems} == {Severity.WARNING}
