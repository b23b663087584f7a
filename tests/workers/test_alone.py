"""A relay worker whose control process dies serves on, whatever it was telling it."""

from pathlib import Path
from typing import Any, cast

import pytest

from epp_client.settings import ServeSettings
from epp_client.workers.channel import Channel, Configure, Count
from epp_client.workers.worker import Worker


class Dying:
    """A control process that asks, and is gone before it has an answer."""

    def __init__(self, *asked: object) -> None:
        self.asked = list(asked)

    async def receive(self) -> Any:
        return self.asked.pop(0) if self.asked else None

    async def send(self, message: object) -> None:
        raise ConnectionResetError("Connection lost")


@pytest.mark.parametrize("asked", [(), (Count(1),)])
async def test_a_control_process_that_dies_while_it_is_answered(
    tmp_path: Path, asked: tuple[object, ...]
) -> None:
    settings = ServeSettings(pools=tmp_path, socket=tmp_path / "relay.sock")
    worker = Worker(cast("Channel", Dying(*asked)), Configure(0, settings, True, None))
    alone = False

    async def orphaned() -> None:
        nonlocal alone
        alone = True

    worker._orphaned = orphaned  # type: ignore[method-assign]
    assert await worker._serve()
    await worker._listen()
    assert alone
    assert worker._plane.serving
    await worker._plane.drain(0)
    await worker._plane.close()
