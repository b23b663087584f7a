"""The holder by itself: what it is given outlives the giver, and nothing waits for ever."""

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from epp_client.hold.packets import FREE, TAKEN
from epp_client.wire.socket_file import BoundSocket
from tests.hold.running import Peer, Running

BECOME_AND_CONNECT = """
import os, socket, sys
from epp_client.hold.packets import receive
path, user = sys.argv[1], int(sys.argv[2])
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
connection.connect(path)
print(receive(connection))
"""


Start = Callable[[float], Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as owner:
        yield lambda patience: Running(tmp_path, patience, owner)


def until(happened: Callable[[], bool]) -> None:
    # the test's own timeout ends this
    while not happened():
        time.sleep(0.01)


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


def kept_by_the_first(holder: Running) -> tuple[Peer, Path, BoundSocket]:
    """The first control process, and its socket, which the holder has."""
    first = holder.peer()
    assert first.offers == {}
    path, bound = holder.bind("relay.sock")
    first.keep(bound, path)
    holder.until_offered({path: TAKEN}).close()
    return first, path, bound


def test_what_connects_while_nobody_is_there_is_the_next_ones(start: Start) -> None:
    holder = start(60)
    first, path, bound = kept_by_the_first(holder)
    first.hangs_up()
    bound.leave()
    second = holder.until_offered({path: FREE})
    with connected(path) as client:
        client.sendall(b"wait")
        (left,) = second.greeting
        assert left.descriptor is not None
        assert left.inode == path.stat().st_ino
        with socket.socket(fileno=os.dup(left.descriptor)) as listener:
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(4) == b"wait"


def test_the_next_one_keeps_it_in_its_turn(start: Start) -> None:
    holder = start(60)
    first, path, bound = kept_by_the_first(holder)
    first.hangs_up()
    second = holder.until_offered({path: FREE})
    second.keep(bound, path)
    third = holder.until_offered({path: TAKEN})
    assert [packet.descriptor for packet in third.greeting] == [None]


def test_patience_ends(start: Start) -> None:
    """The name is gone and what waited is reset: Envoy asks elsewhere instead of waiting."""
    holder = start(0.3)
    first, path, bound = kept_by_the_first(holder)
    with connected(path) as client:
        bound.leave()
        assert path.is_socket()
        first.hangs_up()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    until(lambda: not path.exists())


def test_a_name_that_is_somebody_elses_by_then_stays(start: Start) -> None:
    holder = start(0.1)
    first, path, _bound = kept_by_the_first(holder)
    _, successor = holder.bind("relay.sock")
    first.hangs_up()
    holder.until_offered({})
    assert path.stat().st_ino == successor.inode


def test_nothing_is_taken_from_one_who_is_about_to_serve(start: Start) -> None:
    holder = start(0.1)
    first, path, _bound = kept_by_the_first(holder)
    second = holder.until_offered({path: TAKEN})
    first.hangs_up()
    assert not select.select([second.connection], [], [], 0.5)[0], "its patience is over by now"
    assert path.is_socket()
    other, more = holder.bind("other.sock")
    # it serves, and not this one
    second.keep(more, other)
    until(lambda: not path.exists())
    assert other.is_socket()


def test_a_dropped_socket_is_let_go(start: Start) -> None:
    holder = start(60)
    peer = holder.peer()
    path, bound = holder.bind("relay.sock")
    peer.keep(bound, path)
    holder.until_offered({path: TAKEN}).close()
    peer.drop(path)
    holder.until_offered({}).close()
    bound.leave()
    with pytest.raises(ConnectionRefusedError):
        connected(path)


def test_a_socket_that_is_bound_anew_takes_the_place_of_the_old_one(start: Start) -> None:
    holder = start(60)
    peer = holder.peer()
    path, old = holder.bind("relay.sock")
    peer.keep(old, path)
    _, new = holder.bind("relay.sock")
    peer.keep(new, path)
    peer.hangs_up()
    (left,) = holder.until_offered({path: FREE}).greeting
    assert left.inode == new.inode


@pytest.mark.parametrize("data", [b"nonsense", b"\xff", b"keep x y", b"keep 1 /no/descriptor"])
def test_nonsense_costs_nothing(start: Start, data: bytes) -> None:
    holder = start(60)
    peer = holder.peer()
    path, bound = holder.bind("relay.sock")
    peer.keep(bound, path)
    stranger = holder.peer()
    with ExitStack() as given:
        descriptor = given.enter_context(socket.socket()).fileno()
        descriptors = [] if data.endswith(b"descriptor") else [descriptor]
        socket.send_fds(stranger.connection, [data], descriptors)
    holder.until_offered({path: TAKEN})


def test_another_user_is_refused(start: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with TemporaryDirectory(dir="/tmp") as folder, ExitStack() as owner:
        os.chmod(folder, 0o755)
        holder = Running(Path(folder), 60, owner)
        assert holder.path.stat().st_mode & 0o777 == 0o600
        command = [sys.executable, "-c", BECOME_AND_CONNECT, str(holder.path), "65534"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert "PermissionError" in done.stderr
        # as if somebody had opened it
        holder.path.chmod(0o666)
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.stdout.strip() == "None", done


def test_it_ends_when_it_is_told_and_leaves_no_name_that_nobody_serves(start: Start) -> None:
    holder = start(60)
    first, second = holder.peer(), holder.peer()
    (left, one), (served, two) = holder.bind("left.sock"), holder.bind("served.sock")
    first.keep(one, left)
    second.keep(two, served)
    first.hangs_up()
    holder.until_offered({left: FREE, served: TAKEN}).close()
    holder.process.terminate()
    assert holder.process.wait(20) == 0
    assert not left.exists()
    assert not holder.path.exists()
    assert served.is_socket()


def test_a_place_where_none_can_be_bound_is_said_in_a_line() -> None:
    command = [sys.executable, "-m", "epp_client.hold", "/no/such/folder/hold.sock", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr == (
        "epp-client hold: /no/such/folder is not a directory; create it and make it writable for this "
        "user\n"
    )


def test_a_holder_whose_own_name_is_removed_has_it_again_and_keeps_what_it_has(
    start: Start,
) -> None:
    holder = start(60)
    _, path, _ = kept_by_the_first(holder)
    holder.path.unlink()
    until(holder.path.is_socket)
    holder.until_offered({path: TAKEN}).close()
