"""PickerEvents: the events of a picker's stream, for the session that opened it and until it leaves it."""

from typing import final

from mypy_extensions import mypyc_attr

from epp_client.wire.status import Status
from epp_client.wire.transport import StreamEvents


class PickerUser(StreamEvents):
    """A stream of Envoy that also has a stream to a picker. A base class and no protocol: compiled, a call
    of its methods costs a tenth."""

    def picker_said(self, message: bytes) -> None:
        """A ProcessingResponse."""
        raise NotImplementedError

    def picker_closed(self, status: Status) -> None:
        """The picker's stream ended."""
        raise NotImplementedError

    def pause_picker(self) -> None:
        """The backlog to the picker is full."""
        raise NotImplementedError

    def resume_picker(self) -> None:
        """The backlog to the picker has room again."""
        raise NotImplementedError


@final
@mypyc_attr(free_list_len=1)
class PickerEvents(StreamEvents):
    """`StreamEvents` of the picker's stream. `user` is None once the session has left the stream."""

    __slots__ = ("user",)

    def __init__(self, user: PickerUser) -> None:
        self.user: PickerUser | None = user

    def message_received(self, message: bytes) -> None:
        """See `PickerUser`."""
        if self.user is not None:
            self.user.picker_said(message)

    def half_closed(self) -> None:
        """Only servers see this."""

    def closed(self, status: Status) -> None:
        """See `PickerUser`."""
        if self.user is not None:
            self.user.picker_closed(status)

    def pause_writing(self) -> None:
        """See `PickerUser`."""
        if self.user is not None:
            self.user.pause_picker()

    def resume_writing(self) -> None:
        """See `PickerUser`."""
        if self.user is not None:
            self.user.resume_picker()
