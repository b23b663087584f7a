"""TLS files that are rotated under a running sidecar: followed, and never half-written."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from epp_client.errors import PeerUnreachable
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.grpcio import GrpcioTransport
from epp_client.wire.native import NativeTransport
from epp_client.wire.tls import CHECK_INTERVAL, TlsStore
from epp_client.wire.transport import Transport


@dataclass
class Files:
    tls: ClientTls
    ca: Path
    cert: Path
    key: Path

    def write(self, authority: trustme.CA) -> None:
        """What a rotation writes, in place."""
        client = authority.issue_cert("client.test")
        authority.cert_pem.write_to_path(self.ca)
        client.cert_chain_pems[0].write_to_path(self.cert)
        client.private_key_pem.write_to_path(self.key)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> Files:
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    tls = ClientTls(mode=TlsMode.VERIFIED, ca_file=ca, cert_file=cert, key_file=key)
    made = Files(tls, ca, cert, key)
    made.write(trustme.CA())
    return made


def look(store: TlsStore, clock: Clock, tls: ClientTls) -> int:
    clock.now += CHECK_INTERVAL
    return store.edition(tls)


def test_rotated_files_are_taken(files: Files) -> None:
    clock = Clock()
    store = TlsStore(clock)
    old = store.material(files.tls)
    assert look(store, clock, files.tls) == 0
    files.write(trustme.CA())
    assert store.edition(files.tls) == 0, "not looked at again yet"
    assert look(store, clock, files.tls) == 1
    new = store.material(files.tls)
    assert new.context is not old.context
    assert (new.ca, new.cert, new.key) == tuple(
        path.read_bytes() for path in (files.ca, files.cert, files.key)
    )
    assert look(store, clock, files.tls) == 1


def test_a_folder_that_is_swapped_by_a_symlink_is_taken(files: Files, tmp_path: Path) -> None:
    """The way in which Kubernetes updates Secrets."""
    for generation in ("one", "two"):
        (tmp_path / generation).mkdir()
        part = Files(
            files.tls,
            *(tmp_path / generation / path.name for path in (files.ca, files.cert, files.key)),
        )
        part.write(trustme.CA())
    (tmp_path / "data").symlink_to("one")
    tls = files.tls.model_copy(
        update={f"{name}_file": tmp_path / "data" / f"{name}.pem" for name in ("ca", "cert", "key")}
    )
    clock = Clock()
    store = TlsStore(clock)
    store.material(tls)
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", tmp_path / "data")
    assert look(store, clock, tls) == 1
    assert store.material(tls).ca == (tmp_path / "two" / "ca.pem").read_bytes()


@pytest.mark.parametrize("broken", ["ca", "cert", "key", "missing", "another key"])
def test_what_is_half_written_is_reported_and_the_old_stays(
    files: Files, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    store = TlsStore(clock)
    old = store.material(files.tls)
    whole = {path: path.read_bytes() for path in (files.ca, files.cert, files.key)}
    match broken:
        case "missing":
            files.key.unlink()
        case "another key":
            trustme.CA().issue_cert("client.test").private_key_pem.write_to_path(files.key)
        case _:
            path = getattr(files, broken)
            path.write_bytes(whole[path][: len(whole[path]) // 2])
    assert look(store, clock, files.tls) == 0
    assert store.material(files.tls) is old
    assert (
        capsys.readouterr().out.count("changed TLS files are not valid; using the previous ones")
        == 1
    )
    assert look(store, clock, files.tls) == 0
    assert "not taken" not in capsys.readouterr().out, "said once"
    files.write(trustme.CA())
    assert look(store, clock, files.tls) == 1
    assert store.material(files.tls).key == files.key.read_bytes()


def test_files_that_never_made_sense_are_an_error_each_time(files: Files) -> None:
    files.cert.write_bytes(b"no certificate")
    store = TlsStore(Clock())
    for _ in range(2):
        with pytest.raises(OSError, match="PEM"):
            store.material(files.tls)
    files.write(trustme.CA())
    assert store.material(files.tls).cert == files.cert.read_bytes()


@pytest.mark.parametrize("transport", [NativeTransport, GrpcioTransport])
@pytest.mark.parametrize("wrong", ["missing", "no certificate"])
async def test_files_that_cannot_be_used_are_named(
    files: Files, transport: Callable[[], Transport], wrong: str
) -> None:
    files.ca.unlink() if wrong == "missing" else files.ca.write_bytes(b"no certificate")
    with pytest.raises(PeerUnreachable) as failed:
        await transport().connect("127.0.0.1:9", files.tls, "epp.default.svc", 5)
    assert str(files.ca) in str(failed.value)
    assert "plaintext" not in str(failed.value)


def test_plaintext_has_no_files() -> None:
    tls = ClientTls(mode=TlsMode.PLAINTEXT)
    clock = Clock()
    store = TlsStore(clock)
    assert store.material(tls).context is None
    assert look(store, clock, tls) == 0
