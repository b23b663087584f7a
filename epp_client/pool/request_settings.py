"""RequestSettings: the settings of a pool that each request reads, as compiled code reads them. Pure.

Compiled code reads an attribute of a pydantic model for thirty times the cost.
"""

import re
from dataclasses import dataclass

from mypy_extensions import mypyc_attr


# Serializable, as snapshots are pickled between processes.
@mypyc_attr(serializable=True)
@dataclass
class RequestSettings:
    """See the attributes of the same names of PoolSettings, which makes it."""

    pick_timeout: float
    response_timeout: float
    endpoint_wait: float
    max_retained_body: int
    max_body_growth: int
    response_shown: bool
    """Whether the picker sees the response."""
    response_changed: bool
    """Whether the picker may change the response."""
    stripped: re.Pattern[bytes]
    """Finds a name of a header that clients must not send, in a message of Envoy, which has names in lower
    case."""
