"""The certificate in a Secret of type kubernetes.io/tls, or what is wrong with it. Pure.

Texts never quote a Secret.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from epp_client.gateway.table import Certificate

TLS_TYPE = "kubernetes.io/tls"
_CHAIN, _KEY = "tls.crt", "tls.key"


def certificate(secret: Mapping[str, Any]) -> Certificate | str:
    """The certificate chain and the key of a Secret object, or the text of why they cannot be used.

    Validity dates are not checked: an expired certificate is served, as it was the moment before.
    """
    if (kind := secret.get("type")) != TLS_TYPE:
        return f"its type is {kind!r:.80}, not {TLS_TYPE}"
    data = secret.get("data") or {}
    chain, key = _decoded(data, _CHAIN), _decoded(data, _KEY)
    if isinstance(chain, str):
        return chain
    if isinstance(key, str):
        return key
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return f"{_CHAIN} is not a chain of PEM certificates"
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        return f"{_KEY} is encrypted"
    except (ValueError, UnsupportedAlgorithm):
        return f"{_KEY} is not a PEM private key"
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != public.public_bytes(*form):
        return f"{_KEY} is not the key of the first certificate in {_CHAIN}"
    return Certificate(chain, key)


def _decoded(data: Mapping[str, Any], name: str) -> bytes | str:
    """The bytes of one entry of `data`, or the text of what is wrong with it."""
    value = data.get(name)
    if not value:
        return f"it has no {name}"
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        return f"{name} is not base64"
