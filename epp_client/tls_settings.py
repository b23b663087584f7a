"""How our connections to servers are secured, as values: for settings and transports alike. Pure."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class TlsMode(StrEnum):
    """How a connection is secured."""

    PLAINTEXT = "plaintext"
    VERIFIED = "verified"
    UNVERIFIED = "unverified"


class ClientTls(BaseModel):
    """TLS towards a server. Hashable: it is a part of the connection pool's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    mode: TlsMode = TlsMode.UNVERIFIED
    """How to speak to pickers. `unverified` suits the certificate that GAIE's picker signs for itself."""
    ca_file: Path | None = None
    """PEM bundle to verify with; the system's when absent."""
    server_name: str | None = None
    """Name that the certificate must carry, and the SNI; `<service>.<namespace>.svc` when absent."""
    cert_file: Path | None = None
    """PEM client certificate (mTLS)."""
    key_file: Path | None = None
    """Its PEM key."""

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("a key needs its certificate: --picker-cert, or tls-cert-file")
        return self
