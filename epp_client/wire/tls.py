"""TLS towards pickers: the context that a pool's settings ask for, and what to do when it fails."""

import ssl

from epp_client.pool.settings import PickerTls, PickerTlsMode


def picker_context(tls: PickerTls) -> ssl.SSLContext | None:
    """A client context with ALPN h2; None for plaintext.

    Raises:
        OSError: a file that cannot be read, or that is not PEM (`ssl.SSLError`).
    """
    if tls.mode is PickerTlsMode.PLAINTEXT:
        return None
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.mode is PickerTlsMode.UNVERIFIED:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["h2"])
    return context


def unreachable(address: str, tls: PickerTls, cause: str) -> str:
    """Why a picker could not be reached, and what to look at."""
    if tls.mode is PickerTlsMode.PLAINTEXT:
        hint = "is it a TLS picker? (tls: unverified or verified)"
    else:
        hint = "is it a plaintext picker? (tls: plaintext), or is its certificate not trusted?"
    return f"picker {address} over {tls.mode}: {cause}; {hint}"
