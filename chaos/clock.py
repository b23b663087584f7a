"""Changes the wall clock of a process."""

from pathlib import Path


def clock_library() -> Path | None:
    """libfaketime, which changes the wall clock of a process (Debian: apt-get install faketime)."""
    places = Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1")
    return next(places, None)


class WallClock:
    """The wall clock of processes that are started with its command. They read it from a file."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._file = folder / "clock"

    def command(self) -> list[str]:
        """What to begin a process's command with. The clock has the true time then."""
        self.set(0)
        return [
            "env", f"LD_PRELOAD={self._library}", f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]  # fmt: skip

    def set(self, seconds: int) -> None:
        """Set it to `seconds` ahead of the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.rename(self._file)
