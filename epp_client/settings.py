"""Settings of the whole process: parsed and validated in one place, before anything binds."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from epp_client.errors import SettingsError
from epp_client.pool.settings import PoolSettings


class TransportName(StrEnum):
    """Which gRPC implementation carries the hot path."""

    NATIVE = "native"
    """Our own HTTP/2: a fraction of the CPU."""
    GRPCIO = "grpcio"
    """gRPC's own library."""


class UpstreamMode(StrEnum):
    """How Envoy gets from the destination endpoint to a connection."""

    OVERRIDE_HOST = "override_host"
    """Clusters and endpoints over xDS; ordered lists, retries, the served endpoint."""
    ORIGINAL_DST = "original_dst"
    """Envoy dials what the metadata says; for Envoys without our xDS. One address, no retries."""


class ServeSettings(BaseModel):
    """Settings of `epp-client serve`. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: Path
    """Manifest file or directory."""
    socket: Path = Path("/run/epp-client/ext-proc.sock")
    """Unix socket for Envoy's ext_proc streams."""
    xds_socket: Path | None = Path("/run/epp-client/xds.sock")
    """Unix socket for Envoy's ADS stream; None serves no xDS."""
    admin: str = "127.0.0.1:9902"
    """`host:port` of the admin page."""
    transport: TransportName = TransportName.NATIVE
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST
    max_exchanges: Annotated[int, Field(ge=1)] = 10_000
    """Streams open at once; beyond it requests get 503 with `retry-after`."""
    max_retained_total: Annotated[int, Field(ge=0)] = 512 * 1024 * 1024
    """Bytes of bodies kept for a second try by all exchanges together."""
    drain_timeout: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    """How long open streams may take to finish after SIGTERM."""
    pool_defaults: PoolSettings = PoolSettings()
    """Defaults that annotations on an InferencePool override."""


def serve_settings(values: dict[str, Any]) -> ServeSettings:
    """Validate settings.

    Raises:
        SettingsError: names every bad key, its value and the rule it breaks.
    """
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (got {item['input']!r})"
            for item in error.errors()
        ]
        raise SettingsError("; ".join(lines)) from error
