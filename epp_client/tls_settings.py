"""TLS settings of connections to pickers, shared by settings and transports. Values only."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class TlsMode(StrEnum):
    """How a connection is secured."""

    PLAINTEXT = "plaintext"
    """No TLS."""
    VERIFIED = "verified"
    """TLS; the certificate must be valid for the server's name."""
    UNVERIFIED = "unverified"
    """TLS; any certificate is accepted."""

    @property
    def spoken(self) -> str:
        """For errors, after `over`."""
        return self.value if self is TlsMode.PLAINTEXT else f"{self.value} TLS"


class ClientTls(BaseModel):
    """TLS towards a picker. Hashable, because it is a part of the connection pool's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    mode: TlsMode = TlsMode.UNVERIFIED
    """TLS mode of connections to pickers. GAIE's picker has a self-signed certificate by default:
    `unverified` accepts it."""
    ca_file: Path | None = None
    """PEM bundle of the CAs to verify pickers with. Default: the system's."""
    server_name: str | None = None
    """SNI, and the name that the picker's certificate must have. Default: `<service>.<namespace>.svc`."""
    cert_file: Path | None = None
    """PEM client certificate (mTLS)."""
    key_file: Path | None = None
    """PEM key of the client certificate."""

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError(
                "a client key needs its certificate: set --picker-cert (annotation: tls-cert-file)"
            )
        return self
