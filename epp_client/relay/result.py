"""Result: the outcome of one request, and the reasons for it. Pure."""

from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import Reason
from epp_client.picker.mutations import Omissions
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.relay.uses import Use

# A constant, because a member of an enum that is not compiled costs two look-ups for each request.
_UNREACHABLE: Final = Reason.ENDPOINT_UNREACHABLE


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Result:
    """The outcome of one request. Every value is final when the exchange is closed."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        """None until it is decided."""
        self.reason: Reason | None = None
        """Why it was refused or served without the picker."""
        self.failure: Reason | None = None
        """Why the picker's answer was not used, independent of the outcome."""
        self.hint = ""
        """The annotation that sets the bound or deadline that was exceeded. Empty if none was."""
        self.passthrough: Reason | None = None
        """Why the response, or the rest of it, continued without the picker."""
        self.eviction: Eviction | None = None
        """How the request ended, if the picker gave it up after steering it."""
        self.keys: tuple[str, ...] = ()
        """Destination endpoints, in the order in which Envoy tries them."""
        self.endpoint: str | None = None
        """The served endpoint. While it is not known: the destination endpoint."""
        self.endpoint_failure: Reason | None = None
        """Why Envoy answered instead of the endpoint."""
        self.endpoint_error = False
        """Whether the endpoint answered with a status of 500 or above."""
        self.misread = ""
        """The picker's pick as it may be logged, if the answer could not be used because of it."""
        self.left_out: Omissions = {}
        """What was left out of the picker's answers."""
        self.response_use: Use | None = None
        """What the picker has made of the response's headers and trailers. None: it was not asked, or has
        not answered."""
        self.body_unwanted = False
        """Whether the picker has asked for no body of the request."""
        self.trailers_answered: bool | None = None
        """Whether this picker answers trailers. None if there were no trailers."""

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Destinations that Envoy could not connect to: those before the served one in the list. If Envoy
        could not send the request anywhere: all that it has tried."""
        keys = self.keys
        tried = self.endpoint_failure is _UNREACHABLE
        # The usual case, without a search.
        if not tried and keys and self.endpoint == keys[0]:
            return ()
        if self.endpoint not in keys:
            return ()
        return keys[: keys.index(self.endpoint) + tried]
