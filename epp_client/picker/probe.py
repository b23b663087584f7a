"""One health check of a picker, over the connection of its requests. Knows nothing of states."""

import asyncio

from epp_client.picker.health import Health
from epp_client.wire.health import (
    CHECK,
    EXT_PROC,
    OVERALL,
    READINESS,
    ServingStatus,
    check_request,
    read_answer,
)
from epp_client.wire.status import NOT_FOUND, UNAVAILABLE, Status
from epp_client.wire.transport import Connection, StreamEvents

_REQUESTS = [check_request(name) for name in (EXT_PROC, READINESS, OVERALL)]


class Probe:
    """Health checks of one address. Remembers which service name it knows."""

    def __init__(self) -> None:
        self._first = 0

    async def check(self, connection: Connection) -> Health | None:
        """Check once: SERVING, NOT_SERVING, or UNKNOWN if it has no health service here. None: the
        connection broke. Waits for the answer without a timeout.
        """
        for index in range(self._first, len(_REQUESTS)):
            answer = await _ask(connection, _REQUESTS[index])
            if isinstance(answer, Status):
                if answer.code == UNAVAILABLE:
                    return None
                if answer.code == NOT_FOUND:
                    continue
                # Most likely UNIMPLEMENTED: the health service is on another port.
                return Health.UNKNOWN
            said = read_answer(answer)
            if said is ServingStatus.SERVICE_UNKNOWN:
                continue
            self._first = index
            if said is ServingStatus.UNKNOWN:
                return Health.UNKNOWN
            return Health.SERVING if said is ServingStatus.SERVING else Health.NOT_SERVING
        self._first = 0
        return Health.UNKNOWN


class _Answer(StreamEvents):
    """`StreamEvents` of a call with one answer."""

    def __init__(self) -> None:
        self.came: asyncio.Future[bytes | Status] = asyncio.get_running_loop().create_future()

    def message_received(self, message: bytes) -> None:
        if not self.came.done():
            self.came.set_result(message)

    def closed(self, status: Status) -> None:
        if not self.came.done():
            self.came.set_result(status)

    def half_closed(self) -> None:
        """Only called for servers."""

    def pause_writing(self) -> None:
        """One request fits into any buffer."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


async def _ask(connection: Connection, message: bytes) -> bytes | Status:
    answer = _Answer()
    stream = connection.open(CHECK, {}, answer)
    try:
        stream.send(message)
        stream.finish()
        return await answer.came
    finally:
        stream.cancel()
