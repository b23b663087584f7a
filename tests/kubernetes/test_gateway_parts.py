"""The pure parts of following a Gateway: certificates, queries, standing, specifications."""

import base64
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import References
from epp_client.kubernetes.client.resources import HTTP_ROUTE
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.gateway_queries import (
    MANY,
    by_service,
    gateway_query,
    referred,
)
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.specifications import Specifications
from epp_client.kubernetes.follow.standing import Standing, standing_by_class
from epp_client.pool.inference_pool import PoolName


def key_pair(name: str = "gw.example.com", password: bytes | None = None) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return made.public_bytes(pem), key.private_bytes(pem, form, encryption)


def secret(chain: bytes, key: bytes, type: str = "kubernetes.io/tls") -> dict[str, Any]:
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
    return {"metadata": {"name": "tls"}, "type": type, "data": data}


# --- queries ---


def queries(**references: Any) -> list[str]:
    return [*map(str, referred(References(**references)))]


def test_only_what_is_named_is_asked_for() -> None:
    assert str(gateway_query(GatewayName("infra", "edge"))) == (
        "gateways.gateway.networking.k8s.io in infra (metadata.name=edge)"
    )
    assert queries() == []
    assert queries(secrets=frozenset({SecretName("infra", "tls")})) == [
        "secrets in infra (metadata.name=tls)"
    ]
    assert queries(config_maps=frozenset({("infra", "more")})) == [
        "configmaps in infra (metadata.name=more)"
    ]
    assert queries(namespaces=True) == ["namespaces"]


def test_services_are_asked_for_by_name_until_there_are_many() -> None:
    few = frozenset(("apps", f"s{index}") for index in range(MANY - 1))
    assert len(queries(services=few)) == 2 * len(few)
    assert "services in apps (metadata.name=s0)" in queries(services=few)
    many = few | {("apps", "more"), ("other", "s")}
    assert set(queries(services=many)) == {
        "services in apps",
        "endpointslices.discovery.k8s.io in apps",
        "services in other (metadata.name=s)",
        "endpointslices.discovery.k8s.io in other (kubernetes.io/service-name=s)",
    }


def test_slices_are_told_apart_by_their_service() -> None:
    def of(service: str | None) -> dict[str, Any]:
        return {"metadata": {"labels": {"kubernetes.io/service-name": service}}}

    a, b = of("a"), of("b")
    assert by_service([a, b, a, of(None)]) == {"a": [a, a], "b": [b], "None": [of(None)]}


def test_the_routes_of_the_scope() -> None:
    def where(scope: Scope, *more: str) -> list[str | None]:
        return [query.namespace for query in scope.everywhere(HTTP_ROUTE, *more)]

    assert where(Scope(), "infra") == [None]
    assert where(Scope(("a",), (PoolName("b", "p"),))) == ["a", "b"]
    assert where(Scope(("a",)), "infra", "a") == ["a", "infra"]


# --- whose it is ---

GATEWAY = {"spec": {"gatewayClassName": "epp"}}
MINE, THEIRS = ({"spec": {"controllerName": name}} for name in ("me", "them"))


@pytest.mark.parametrize(
    ("found", "answered", "ours_by", "standing"),
    [
        (MINE, True, None, Standing.OURS),
        (THEIRS, True, "epp", Standing.FOREIGN),
        (None, False, "epp", Standing.UNKNOWN),
        (None, True, None, Standing.FOREIGN),
        (None, True, "epp", Standing.OURS),
        (None, True, "other", Standing.FOREIGN),
    ],
)
def test_the_class_decides(
    found: Any, answered: bool, ours_by: str | None, standing: Standing
) -> None:
    assert standing_by_class(GATEWAY, found, answered, "me", ours_by) is standing


# --- specifications ---


def named(version: int, generation: int = 1, **more: Any) -> dict[str, Any]:
    metadata = {"name": "x", "resourceVersion": str(version), "generation": generation}
    return {"metadata": metadata, "spec": {"a": generation}, **more}


def test_a_status_makes_no_new_object() -> None:
    specs, key = Specifications(), Key("", "x")
    first, second = named(1), named(2, status={"b": 1})
    assert specs.update({key: first})
    assert not specs.update({key: first})
    assert not specs.update({key: second})
    assert specs.objects[0] is first
    third = named(3, generation=2)
    assert specs.update({key: third})
    assert specs.objects[0] is third
    assert specs.generations == {key: 2}
    assert specs.update({})
    assert specs.objects == []
    assert not specs.update({})
