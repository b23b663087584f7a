"""Originals: the body messages of one direction that the picker has not answered yet. Pure.

They are kept so that the body can be sent unchanged if the picker fails. This module does not know headers,
trailers, or the order of answers that Envoy accepts.
"""

from collections import deque
from enum import IntEnum
from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.ext_proc.messages import Message, Phase
from epp_client.ext_proc.replies import END_OF_REQUEST_BODY
from epp_client.relay.retention import RetentionBudget


class Fidelity(IntEnum):
    """How much of the original body of a direction is available."""

    KEPT = 0
    """The unanswered part is here, and the answered part was sent unchanged."""
    REWRITTEN = 1
    """The picker's body differs from the original."""
    LOST = 2
    """The body was larger than its bound: the originals are lost."""


_SYNTHETIC_END: Final = Message(Phase.REQUEST_BODY, True, b"", 0, 0)


@final
@mypyc_attr(acyclic=True)
class Originals:
    """Unanswered body messages, oldest first, within the bounds of one direction and of the process."""

    def __init__(self, budget: RetentionBudget, limit: int) -> None:
        self.budget = budget
        self.limit = limit
        self.retained = 0
        """Bytes held now."""
        self.fidelity = Fidelity.KEPT
        self._messages: deque[Message] = deque()
        # Answered bytes of the first message.
        self._answered = 0

    @property
    def lost(self) -> bool:
        """Whether originals are lost."""
        return self.fidelity is Fidelity.LOST

    @property
    def intact(self) -> bool:
        """Whether the answered part and the unanswered rest together are the original body."""
        return self.fidelity is Fidelity.KEPT

    @property
    def count(self) -> int:
        """How many messages are unanswered."""
        return len(self._messages)

    @property
    def has_end(self) -> bool:
        """Whether the last unanswered message ends the body."""
        return bool(self._messages) and self._messages[-1].end_of_stream

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes can be kept."""
        return self.retained + size <= self.limit and self.budget.has_room(size)

    def keep(self, message: Message) -> None:
        """Keep a message until it is answered. If there is no room for it, all messages are lost."""
        if self.fidelity is Fidelity.LOST:
            return
        size = len(message.raw)
        if not self.has_room(size):
            self.fidelity = Fidelity.LOST
            self.release()
            return
        self.budget.take(size)
        self.retained += size
        self._messages.append(message)

    def keep_synthetic_end(self) -> None:
        """Keep an end of the body that Envoy did not send. Its answer must not go to Envoy."""
        self._messages.append(_SYNTHETIC_END)

    def _drop_first(self) -> None:
        message = self._messages.popleft()
        self._answered = 0
        if message is not _SYNTHETIC_END:
            self.retained -= len(message.raw)
            self.budget.give_back(len(message.raw))

    def release(self) -> None:
        """Drop every message."""
        self._messages.clear()
        self._answered = 0
        self.budget.give_back(self.retained)
        self.retained = 0

    def take(self) -> tuple[bytes, bool, bool]:
        """Remove the oldest message. Returns its unanswered bytes, whether it ends Envoy's body, and
        whether it is the synthetic end."""
        message = self._messages[0]
        payload = message.raw[message.start + self._answered : message.end]
        self._drop_first()
        synthetic = message is _SYNTHETIC_END
        return payload, message.end_of_stream and not synthetic, synthetic

    def rewritten(self) -> None:
        """Note that the picker's body differs from the original."""
        if self.fidelity is Fidelity.KEPT:
            self.fidelity = Fidelity.REWRITTEN

    def consume(self, payload: bytes, *, is_final: bool) -> None:
        """Remove what `payload` answers. While its bytes equal the original, this goes byte by byte."""
        messages = self._messages
        at, size = 0, len(payload)
        while at < size and self.fidelity is Fidelity.KEPT:
            if not messages:
                self.fidelity = Fidelity.REWRITTEN
                break
            first = messages[0]
            start = first.start + self._answered
            count = min(first.end - start, size - at)
            piece = payload if count == size else payload[at : at + count]
            if not first.raw.startswith(piece, start):
                self.fidelity = Fidelity.REWRITTEN
                break
            at += count
            self._answered += count
            if start + count == first.end:
                if first.end_of_stream:
                    if at < size:
                        self.fidelity = Fidelity.REWRITTEN
                    break
                self._drop_first()
        if is_final:
            self.release()
        elif self.fidelity is Fidelity.REWRITTEN and messages and not messages[0].end_of_stream:
            # After a change, each answer is assumed to answer one chunk.
            self._drop_first()
        while messages and messages[0].start == messages[0].end and not messages[0].end_of_stream:
            self._drop_first()

    def again(self) -> list[bytes]:
        """The messages to send when a picker is asked again, including the synthetic end."""
        return [
            END_OF_REQUEST_BODY if message is _SYNTHETIC_END else message.raw
            for message in self._messages
        ]
