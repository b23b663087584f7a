"""Times the load of a 30 MB dump of a cluster beside `json.load`, which does the least that can be done."""

import json
from pathlib import Path
from typing import Any

import pytest

from epp_client.manifests.lint import lint
from epp_client.pool.settings import PoolSettings
from testbed.stack import inference_pool, pod, service

SIZE = 30_000_000
ENVIRONMENT = [{"name": f"VARIABLE_{n}", "value": f"value {n}"} for n in range(50)]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `kubectl get -o json` prints it; each Pod has 8 kB, as those of model servers have."""
    items: list[dict[str, Any]] = [inference_pool("llama", 8000, "epp", "FailOpen")]
    items += service("epp", "10.1.0.1:9002")
    while len(items) < SIZE // 8_000:
        number = len(items)
        one = pod(f"llama-{number}", f"10.{number >> 8}.{number & 255}.1")
        one["spec"] = {"containers": [{"name": "vllm", "env": ENVIRONMENT}]}
        items.append(one)
    file = tmp_path_factory.mktemp("dump") / "pools.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=4))
    assert 0.8 < file.stat().st_size / SIZE < 1.2, file.stat().st_size
    return file


@pytest.mark.benchmark(group="dump")
def test_json_load(benchmark: Any, dump: Path) -> None:
    def load() -> Any:
        with dump.open() as file:
            return json.load(file)

    assert benchmark(load)["items"]


@pytest.mark.benchmark(group="dump")
def test_check(benchmark: Any, dump: Path) -> None:
    """Everything that `epp-client check` does: read, parse, resolve."""
    found = benchmark(lambda: lint([dump], PoolSettings()))
    assert len(found.problems) == 0
