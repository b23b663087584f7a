"""Which Secrets have a certificate that Envoy would take."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from epp_client.gateway.certificates import MAX_SIZE, read_certificate
from epp_client.gateway.table import Certificate

CA = trustme.CA()
LEAF = CA.issue_cert("a.example.com")
CHAIN = b"".join(blob.bytes() for blob in LEAF.cert_chain_pems)
KEY = LEAF.private_key_pem.bytes()
OTHER_KEY = CA.issue_cert("b.example.com").private_key_pem.bytes()
ENCRYPTED = load_pem_private_key(KEY, None).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
)


SHORT_KEY = generate_private_key(65537, 1024).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


def secret(chain: bytes | None = CHAIN, key: bytes | None = KEY) -> Mapping[str, Any]:
    found = {"tls.crt": chain, "tls.key": key}
    data = {k: base64.b64encode(v).decode() for k, v in found.items() if v is not None}
    return {"type": "kubernetes.io/tls", "data": data}


def test_a_certificate_with_its_key() -> None:
    assert read_certificate(secret()) == Certificate(CHAIN, KEY)
    plain = {
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": CHAIN.decode(), "tls.key": KEY.decode()},
    }
    assert read_certificate(plain) == Certificate(CHAIN, KEY)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "its type is Opaque, not kubernetes.io/tls"),
        ({**secret(), "type": "Opaque"}, "its type is Opaque, not kubernetes.io/tls"),
        (secret(chain=b""), "tls.crt is missing"),
        (secret(key=None), "tls.key is missing"),
        ({**secret(), "data": {"tls.crt": "%%%", "tls.key": "%%%"}}, "tls.crt is not base64"),
        ({**secret(), "data": {"tls.crt": "a" * (2 * MAX_SIZE + 1)}}, "tls.crt is too large"),
        (secret(chain=b"Hello world\n"), "tls.crt has no PEM certificate"),
        (secret(chain=KEY), "tls.crt has no PEM certificate"),
        (secret(key=CHAIN), "tls.key has no unencrypted PEM key"),
        (secret(key=ENCRYPTED), "tls.key has no unencrypted PEM key"),
        (secret(key=SHORT_KEY), "tls.key has 1024 bits, and Envoy takes RSA from 2048"),
        (secret(key=OTHER_KEY), "tls.key is not the key of the first certificate in tls.crt"),
    ],
)
def test_what_is_wrong_is_said_without_the_content(given: Mapping[str, Any], why: str) -> None:
    assert read_certificate(given) == why


def test_a_key_is_in_no_text() -> None:
    assert "PRIVATE KEY" not in repr(read_certificate(secret()))
