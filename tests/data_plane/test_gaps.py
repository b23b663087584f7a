"""The time between two parts of a response."""

from epp_client.data_plane.gaps import EVERY, Gaps
from epp_client.metrics.counters import PICK_BUCKETS, PoolCounters
from tests.data_plane.test_admission import service


def test_each_gap_is_counted_and_nothing_else() -> None:
    counters = PoolCounters()
    gaps = Gaps(counters, iter((11.0, 11.004, 21.004)).__next__)
    # The request, then three parts; messages of other kinds bring no bytes.
    for size in (0, 5, 9, 9, 12):
        gaps.received(size)
    assert sum(counters.gaps) == 2
    assert counters.gaps[PICK_BUCKETS.index(0.005)] == 1
    assert round(counters.gap_seconds, 6) == round(0.004 + 10.0, 6)


async def test_one_response_of_sixteen_is_measured() -> None:
    made = service()
    counters = PoolCounters()
    measured = [made._shared.gaps(counters) is not None for _ in range(2 * EVERY + 1)]
    assert [index for index, yes in enumerate(measured) if yes] == [0, EVERY, 2 * EVERY]
    await made.pickers.close()
