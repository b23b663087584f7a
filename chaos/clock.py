"""Finds the library that changes the wall clock of a process."""

from pathlib import Path


def clock_library() -> Path | None:
    """libfaketime, which changes the wall clock of a process (Debian: apt-get install faketime)."""
    places = Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")
    return next(places, None)
