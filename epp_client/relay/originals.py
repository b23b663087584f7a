"""Originals: the body messages of one direction that the picker has not answered yet. Pure.

They are kept so that the body can be sent unchanged if the picker fails. This module does not know headers,
trailers, or the order of answers that Envoy accepts.
"""

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


_MOST_ANSWERED: Final = 64
"""Answered messages after which their places are freed."""
_SYNTHETIC_END: Final = Message(Phase.REQUEST_BODY, True, b"", 0, 0)


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Originals:
    """Unanswered body messages, oldest first, within the bounds of one direction and of the process."""

    def __init__(self, budget: RetentionBudget, limit: int) -> None:
        self.budget = budget
        self.limit = limit
        self.retained = 0
        """Bytes held now."""
        self.fidelity = Fidelity.KEPT
        # Those before `_first` are answered. A list, whose methods compiled code calls ten times as fast as
        # those of a deque.
        self._messages: list[Message] = []
        self._first = 0
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
        return len(self._messages) - self._first

    @property
    def has_end(self) -> bool:
        """Whether the last unanswered message ends the body."""
        return self.count > 0 and self._messages[-1].end_of_stream

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
        messages = self._messages
        message = messages[self._first]
        messages[self._first] = _SYNTHETIC_END
        self._first += 1
        if self._first == len(messages):
            self._messages, self._first = [], 0
        elif self._first >= _MOST_ANSWERED:
            del messages[:_MOST_ANSWERED]
            self._first -= _MOST_ANSWERED
        self._answered = 0
        if message is not _SYNTHETIC_END:
            self.retained -= len(message.raw)
            self.budget.give_back(len(message.raw))

    def release(self) -> None:
        """Drop every message."""
        if self._messages:
            self._messages, self._first = [], 0
        self._answered = 0
        self.budget.give_back(self.retained)
        self.retained = 0

    def take(self) -> tuple[bytes, bool, bool]:
        """Remove the oldest message. Returns its unanswered bytes, whether it ends Envoy's body, and
        whether it is the synthetic end."""
        message = self._messages[self._first]
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
        at, size = 0, len(payload)
        while at < size and self.fidelity is Fidelity.KEPT:
            if not self.count:
                self.fidelity = Fidelity.REWRITTEN
                break
            first = self._messages[self._first]
            start = first.start + self._answered
            count = min(first.end - start, size - at)
            piece = payload if count == size else payload[at : at + count]
            if first.raw[start : start + count] != piece:
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
        elif self.fidelity is Fidelity.REWRITTEN and self._begins_within():
            # After a change, each answer is assumed to answer one chunk.
            self._drop_first()
        while self._begins_within() and self._first_is_empty():
            self._drop_first()

    def _begins_within(self) -> bool:
        """Whether there is a first message, and it is not the end of the body."""
        return self.count > 0 and not self._messages[self._first].end_of_stream

    def _first_is_empty(self) -> bool:
        first = self._messages[self._first]
        return first.start == first.end

    def again(self) -> list[bytes]:
        """The messages to send when a picker is asked again, including the synthetic end."""
        return [
            END_OF_REQUEST_BODY if message is _SYNTHETIC_END else message.raw
            for message in self._messages[self._first :]
        ]
