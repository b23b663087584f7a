"""A serving process runs no full collection of the objects that its start has created."""

import subprocess
import sys

FULL_COLLECTIONS = """
import gc
from epp_client import app, collector
{settle}
before = gc.get_stats()[2]["collections"]
# As many objects as the Pods of two pages of a list.
made = [[] for _ in range(200_000)]
print(gc.get_stats()[2]["collections"] - before)
"""


def full_collections(settle: str) -> int:
    script = FULL_COLLECTIONS.format(settle=settle)
    return int(subprocess.check_output([sys.executable, "-c", script], timeout=60))


def test_a_list_of_pods_causes_no_full_collection() -> None:
    assert full_collections("collector.settle()") == 0
    assert full_collections("") > 0, "without the settings there is no full collection either"
