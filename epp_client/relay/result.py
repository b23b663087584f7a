"""Result: what became of one request. Pure."""

from typing import final

from mypy_extensions import mypyc_attr

from epp_client.errors import Reason
from epp_client.picker.mutations import Omissions
from epp_client.relay.outcome import Eviction, Outcome


@final
@mypyc_attr(acyclic=True)
class Result:
    """What became of one request. Every value is final once the exchange is closed."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        """None until it is decided."""
        self.reason: Reason | None = None
        """Why it was refused or served without the picker."""
        self.failure: Reason | None = None
        """Why no answer of the picker's was used, whatever became of the request then."""
        self.hint = ""
        """Annotation of the bound or deadline that decided it; empty when none did."""
        self.passthrough: Reason | None = None
        """Why the picker had no say in (the rest of) the response."""
        self.eviction: Eviction | None = None
        """What became of the response, when the picker gave up a request that it had steered."""
        self.keys: tuple[str, ...] = ()
        """Destination endpoints, in the order in which Envoy tries them."""
        self.endpoint: str | None = None
        """The served endpoint, or the destination endpoint while that is not known."""
        self.endpoint_failure: Reason | None = None
        """Why Envoy answered in the endpoint's place."""
        self.misread = ""
        """What the picker named, as far as it may be logged, if that made its answer useless."""
        self.left_out: Omissions = {}
        """What was left out of the picker's answers."""
        self.trailers_answered: bool | None = None
        """Whether this picker answers trailers; None where there were none."""

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Destinations that took no connection: those before the served one in the list; of a request that
        Envoy could not send anywhere, all that it has tried."""
        if self.endpoint not in self.keys:
            return ()
        at = self.keys.index(self.endpoint)
        return self.keys[: at + (self.endpoint_failure is Reason.ENDPOINT_UNREACHABLE)]
