"""TLS towards pickers: contexts by settings, their reload, and texts of failures.

Certificates are rotated while the sidecar runs: changed files are loaded, and the last valid content is
kept.
"""

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode

log = structlog.get_logger(__name__)

CHECK_INTERVAL = 2.0
"""Seconds between two checks of the files of one setting."""
MAX_ENTRIES = 1000


class Material(NamedTuple):
    """What a connection is made with. `context` is None for plaintext; the rest is the content of PEM
    files."""

    context: ssl.SSLContext | None = None
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None


Fingerprint = tuple[tuple[int, int, int] | None, ...]


@dataclass
class _Entry:
    material: Material
    fingerprint: Fingerprint
    checked_at: float
    edition: int = 0


class TlsStore:
    """TLS material by setting, for one transport."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[ClientTls, _Entry] = {}

    def material(self, tls: ClientTls) -> Material:
        """The last valid content of the files.

        Raises:
            OSError: a file cannot be read or is not PEM, and was never valid. The text names it.
        """
        return self._entry(tls).material

    def for_peer(self, address: str, tls: ClientTls) -> Material:
        """`material`, for a connection to `address`.

        Raises:
            PeerUnreachable: the files were never valid. The text names them.
        """
        try:
            return self.material(tls)
        except OSError as error:
            raise PeerUnreachable(f"{address} over {tls.mode.spoken}: {error}") from error

    def edition(self, tls: ClientTls) -> int:
        """A number that grows whenever changed files are valid. Checks them every `CHECK_INTERVAL`."""
        entry = self._entries.get(tls)
        if entry is None:
            return 0
        now = self._clock()
        if now - entry.checked_at >= CHECK_INTERVAL:
            entry.checked_at = now
            self._check(tls, entry)
        return entry.edition

    def _entry(self, tls: ClientTls) -> _Entry:
        entry = self._entries.get(tls)
        if entry is None:
            if len(self._entries) >= MAX_ENTRIES:
                self._entries.clear()
            fingerprint = _fingerprint(tls)
            entry = self._entries[tls] = _Entry(_load(tls), fingerprint, self._clock())
        return entry

    def _check(self, tls: ClientTls, entry: _Entry) -> None:
        fingerprint = _fingerprint(tls)
        if fingerprint == entry.fingerprint:
            return
        files = ", ".join(map(str, _files(tls)))
        try:
            material = _load(tls)
            if _fingerprint(tls) != fingerprint:
                # The files are being written; check again later.
                return
        except OSError as error:
            # Most likely incomplete, or a certificate whose key is not written yet.
            log.warning(
                "changed TLS files are not valid; using the previous ones",
                files=files,
                error=str(error),
            )
            entry.fingerprint = fingerprint
            return
        log.info("TLS files have changed; new connections use them", files=files)
        entry.material, entry.fingerprint = material, fingerprint
        entry.edition += 1


def _files(tls: ClientTls) -> list[Path]:
    return [path for path in (tls.ca_file, tls.cert_file, tls.key_file) if path is not None]


def _fingerprint(tls: ClientTls) -> Fingerprint:
    """Identity of the files behind symlinks: Kubernetes replaces a whole directory through a symlink."""
    marks: list[tuple[int, int, int] | None] = []
    for path in _files(tls):
        try:
            status = os.stat(path)
        except OSError:
            marks.append(None)
        else:
            marks.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(marks)


def _load(tls: ClientTls) -> Material:
    def read(path: Path | None) -> bytes | None:
        return None if path is None else path.read_bytes()

    ca, cert, key = read(tls.ca_file), read(tls.cert_file), read(tls.key_file)
    try:
        return Material(client_context(tls), ca, cert, key)
    except ssl.SSLError as error:
        files = ", ".join(map(str, _files(tls)))
        raise OSError(f"{files} cannot be used: {error}") from error


def client_context(tls: ClientTls) -> ssl.SSLContext | None:
    """A client context with ALPN h2; None for plaintext.

    Raises:
        OSError: a file cannot be read, or is not PEM (`ssl.SSLError`).
    """
    if tls.mode is TlsMode.PLAINTEXT:
        return None
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.mode is TlsMode.UNVERIFIED:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        # The empty password makes an encrypted key an error, instead of a prompt on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    context.set_alpn_protocols(["h2"])
    return context


def explain(address: str, tls: ClientTls, error: Exception) -> str:
    """Why a picker could not be connected to, and what to do."""
    plaintext = "set --picker-tls plaintext (annotation epp-client.dev/tls)"
    match error:
        case TimeoutError():
            why = "timed out (epp-client.dev/connect-timeout)"
        case ConnectionRefusedError():
            why = "connection refused: no process listens there"
        case ssl.SSLCertVerificationError():
            why = (
                f"its certificate is not trusted: {error.verify_message}; set epp-client.dev/tls-ca-file, "
                "or --picker-tls unverified"
            )
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            why = f"the picker speaks plaintext: {plaintext}"
        case _:
            cause = str(error) or type(error).__name__
            if tls.mode is TlsMode.PLAINTEXT:
                hint = "set --picker-tls unverified or verified (annotation epp-client.dev/tls)"
                why = f"{cause}; if the picker speaks TLS, {hint}"
            else:
                why = f"{cause}; if the picker speaks plaintext, {plaintext}"
    return f"{address} over {tls.mode.spoken}: {why}"
