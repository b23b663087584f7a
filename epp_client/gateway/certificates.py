"""Reads the certificate of a Secret of type kubernetes.io/tls. Pure.

Envoy rejects a Secret that it cannot use, so it is checked here, where the listener's status can say why.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from epp_client.gateway.table import Certificate

TLS_TYPE = "kubernetes.io/tls"
CERTIFICATE_KEY = "tls.crt"
PRIVATE_KEY = "tls.key"
MIN_RSA_BITS = 2048
MAX_SIZE = 1024 * 1024
"""Bytes of a Secret, by the Kubernetes API."""


def read_certificate(secret: Mapping[str, Any]) -> Certificate | str:
    """The certificate of a Secret, or why it cannot be used. The text has nothing of its content.

    Validity dates are not checked: an expired certificate is served, as it was the moment before.
    """
    if (kind := secret.get("type", "Opaque")) != TLS_TYPE:
        return f"its type is {str(kind)[:80]}, not {TLS_TYPE}"
    found: dict[str, bytes] = {}
    for key in (CERTIFICATE_KEY, PRIVATE_KEY):
        content = _content(secret, key)
        if isinstance(content, str):
            return content
        found[key] = content
    return _checked(found[CERTIFICATE_KEY], found[PRIVATE_KEY])


def _content(secret: Mapping[str, Any], key: str) -> bytes | str:
    plain = (secret.get("stringData") or {}).get(key)
    if plain is not None:
        return str(plain).encode()
    encoded = (secret.get("data") or {}).get(key)
    if not encoded:
        return f"{key} is missing"
    if len(str(encoded)) > 2 * MAX_SIZE:
        return f"{key} is too large"
    try:
        return base64.b64decode(str(encoded), validate=True)
    except binascii.Error:
        return f"{key} is not base64"


def _checked(chain: bytes, key: bytes) -> Certificate | str:
    # Imported here: only a sidecar with certificates needs it, and it takes 30 ms of a start.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        [leaf, *_] = x509.load_pem_x509_certificates(chain)
    except ValueError:
        return f"{CERTIFICATE_KEY} has no PEM certificate"
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError: the key is encrypted.
        return f"{PRIVATE_KEY} has no unencrypted PEM key"
    if isinstance(private, RSAPrivateKey) and private.key_size < MIN_RSA_BITS:
        return f"{PRIVATE_KEY} has {private.key_size} bits, and Envoy takes RSA from {MIN_RSA_BITS}"
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        theirs = leaf.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        return f"{CERTIFICATE_KEY} has a public key of an unknown kind"
    if private.public_key().public_bytes(*form) != theirs:
        return f"{PRIVATE_KEY} is not the key of the first certificate in {CERTIFICATE_KEY}"
    return Certificate(chain, key)
