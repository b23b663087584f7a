"""What a picker has made of the messages of a request. Pure."""

from enum import StrEnum


class Use(StrEnum):
    """What a picker has made of the response, or has said about the request's body."""

    IGNORED = "ignored"
    """It ended its stream with the pick, before the response."""
    READ = "read"
    """It answered the response and changed nothing."""
    CHANGED = "changed"
    """It changed the response, or this is not known."""
    BODY_UNWANTED = "body_unwanted"
    """With its pick it asked for no body of the request (`mode_override`). Envoy does not hear that in
    full-duplex mode."""
