"""Metric families about certificates: until when each one that the sidecar serves or uses is valid."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from epp_client.tls_settings import ClientTls

LABELS: Final = ("use", "namespace", "name")
MAX_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a file that is read."""


class CertificateSource(NamedTuple):
    """Where certificates are used."""

    served: Callable[[], Mapping[tuple[str, str], bytes]]
    """PEM chains that Envoy serves for a Gateway, by namespace and name of the Secret."""
    pickers: Callable[[], Iterable[ClientTls]]
    """TLS settings of the connections to pickers."""


class CertificateCollector(Collector):
    """Reads the certificates at each scrape. Those that have not changed are not parsed again."""

    def __init__(self, source: CertificateSource) -> None:
        self._source = source
        self._parsed: dict[tuple[bytes, bool], float | None] = {}

    def collect(self) -> Iterable[Metric]:
        """The family."""
        family = GaugeMetricFamily(
            "epp_client_certificate_not_after_seconds",
            "When a certificate expires, in seconds since 1970. Of a file of CAs: when its last one does.",
            labels=LABELS,
        )
        before, self._parsed = self._parsed, {}
        for use, namespace, name, pem in self._found():
            key = pem, use == "picker_ca"
            if key not in self._parsed:
                self._parsed[key] = before[key] if key in before else not_after(pem, all_of=key[1])
            if (until := self._parsed[key]) is not None:
                family.add_metric([use, namespace, name], until)
        yield family

    def _found(self) -> Iterator[tuple[str, str, str, bytes]]:
        for (namespace, name), chain in sorted(self._source.served().items()):
            yield "listener", namespace, name, chain
        settings = set(self._source.pickers())
        for use, files in (
            ("picker_client", {tls.cert_file for tls in settings}),
            ("picker_ca", {tls.ca_file for tls in settings}),
        ):
            for path in sorted(file for file in files if file is not None):
                if (pem := _read(path)) is not None:
                    yield use, "", str(path), pem


def not_after(pem: bytes, *, all_of: bool) -> float | None:
    """Seconds since 1970 at which the first certificate of a PEM file expires, or the last one of all. None
    if there is none that can be read."""
    # Imported here: only a sidecar with certificates needs it.
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        return None
    ends = [one.not_valid_after_utc.timestamp() for one in found]
    return max(ends) if all_of else ends[0]


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIZE)
    except OSError:
        # The connection to the picker says why.
        return None
