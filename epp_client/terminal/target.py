"""Where a sidecar's admin page is: at an address, or in a Pod, by a `kubectl port-forward` of our own. A
shell."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from epp_client.errors import AdminUnreachable
from epp_client.up.child import ending_with_parent

PORT: Final = 9902
"""Port of the admin page in a Pod."""
FORWARD_TIMEOUT: Final = 20.0
"""Seconds for `kubectl port-forward` to be ready."""
_GRACE: Final = 2.0
_FORWARDS = re.compile(r"^Forwarding from (127\.0\.0\.1:\d+)", re.MULTILINE)


class Target(Protocol):
    """A sidecar."""

    name: str
    """How people call it."""

    def address(self) -> str:
        """host:port of its admin page.

        Raises:
            AdminUnreachable: there is none; the text says what to do.
        """

    def lost(self) -> None:
        """The address did not answer, or its connection broke."""

    def close(self) -> None:
        """End what was started to reach it."""


class Owned:
    """A context that closes its target."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def lost(self) -> None:
        """See `Target`."""

    def close(self) -> None:
        """See `Target`."""


class Address(Owned):
    """An admin page at a known host:port."""

    def __init__(self, address: str) -> None:
        self.name = address

    def address(self) -> str:
        """See `Target`."""
        return self.name


class Pod(Owned):
    """The admin page of a Pod. `kubectl` runs as our child, with the user's own kubeconfig."""

    def __init__(self, pod: str, options: Sequence[str] = (), port: int = PORT) -> None:
        """`pod`: name of a Pod, or TYPE/NAME as `kubectl port-forward` takes it. `options`: of kubectl,
        such as the namespace."""
        self.name = pod
        self._options = options
        self._port = port
        self._child: subprocess.Popen[bytes] | None = None
        self._address = ""
        self._closed = False

    def address(self) -> str:
        """See `Target`. Starts a port-forward, unless one runs."""
        if self._closed:
            raise AdminUnreachable(f"{self.name}: closed")
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._start()
        return self._address

    def lost(self) -> None:
        """See `Target`. The next address comes from a new port-forward: of a Deployment, to another Pod."""
        self._end()

    def close(self) -> None:
        """See `Target`."""
        self._closed = True
        self._end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say of which port an address is that the user has not given.

        Raises:
            AdminUnreachable: the one that came, with that.
        """
        super().__exit__(kind, error, trace)
        if isinstance(error, AdminUnreachable) and self._address and self._address in str(error):
            raise AdminUnreachable(
                f"{error}. {self._address} is kubectl's, for port {self._port} of {self.name}: is the admin"
                " page there? --pod-port names another port"
            ) from error

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _start(self) -> None:
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise AdminUnreachable(
                "--pod needs kubectl on PATH. Install it, or make the admin page reachable yourself and"
                " give --admin HOST:PORT"
            )
        command = [kubectl, "port-forward", *self._options, "--address=127.0.0.1", self.name]
        # A file, so that kubectl never waits for a reader.
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                # It ends with us, even if we are killed.
                ending_with_parent([*command, f":{self._port}"], signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for us: we end it.
                start_new_session=True,
            )
            self._child = child
            self._address = self._forwarded(child, output.fileno())

    def _forwarded(self, child: "subprocess.Popen[bytes]", output: int) -> str:
        until = time.monotonic() + FORWARD_TIMEOUT
        while True:
            ended = child.poll() is not None
            said = os.pread(output, 10_000, 0).decode(errors="replace")
            if not ended and (found := _FORWARDS.search(said)):
                return found[1]
            if ended or time.monotonic() > until:
                self._end()
                why = said.strip().rpartition("\n")[2] if ended else "it was not ready in time"
                raise AdminUnreachable(f"kubectl port-forward {self.name}: {why or 'it has ended'}")
            time.sleep(0.02)
