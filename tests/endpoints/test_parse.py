"""A file of endpoints: what is read, and what is refused at which line."""

from pathlib import Path

import pytest

from epp_client.endpoints.lint import lint, lists_endpoints
from epp_client.endpoints.listed import ListedEndpoint
from epp_client.endpoints.source import load
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings

LLM_D = """\
endpoints:
- name: vllm-0
  namespace: default
  address: "10.0.0.1"
  port: "8000"
  labels:
    llm-d.ai/role: prefill
- name: vllm-1
  namespace: other
  address: 10.0.0.2
  port: 8001
  metricsHost: 10.0.0.2:9100
- name: vllm-2
  address: FD00:0::7
  port: 8000
"""
READ = (
    ListedEndpoint("vllm-0", "10.0.0.1", 8000, {"llm-d.ai/role": "prefill"}),
    ListedEndpoint("other/vllm-1", "10.0.0.2", 8001),
    ListedEndpoint("vllm-2", "fd00::7", 8000),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "endpoints.yaml"
    path.write_text(text)
    return path


def test_the_file_of_llm_d_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, LLM_D)
    pools, problems = load(EndpointSettings(endpoints=path), PoolSettings())
    assert problems == ()
    assert pools is not None
    [listed] = pools
    assert listed.endpoints == READ
    assert listed.pool.target_ports == (8000, 8001)
    [table] = [found.table for found in lint(path, PoolSettings()).snapshots.values()]
    assert [*table.by_key] == ["10.0.0.1:8000", "10.0.0.2:8001", "[fd00::7]:8000"]
    # A prefill-only model server cannot answer alone.
    assert [one.pod for one in table.local] == ["other/vllm-1", "vllm-2"]


def test_json_is_read(tmp_path: Path) -> None:
    text = '{"endpoints": [{"name": "a", "address": "10.0.0.1", "port": "8000"}]}'
    pools, problems = load(EndpointSettings(endpoints=written(tmp_path, text)), PoolSettings())
    assert (problems, len(pools or ())) == ((), 1)


ONE = "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: 8000\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("endpoints: [", "2: not YAML"),
        ("- name: a\n", "1: not a mapping with `endpoints` but a list"),
        ("", ": has 0 documents"),
        (f"{ONE}---\n{ONE}", ": has 2 documents"),
        ("kind: Pod\n", "1 kind: is a Kubernetes object; give this file to --pools"),
        ("endpoint: []\n", "1 endpoints: is required"),
        ("endpoints: 1\n", "1 endpoints: 1 is not a list"),
        (ONE.replace("- name: a\n ", "-"), "2 endpoints[0].name: is required"),
        (ONE.replace("name: a", "name: ''"), "2 endpoints[0].name: '': "),
        (ONE.replace("10.0.0.1", "model-1"), "3 endpoints[0].address: 'model-1' is not a usable"),
        (ONE.replace("10.0.0.1", "10.0.0.1:8000"), "3 endpoints[0].address: '10.0.0.1:8000' is"),
        (ONE.replace("8000", "0"), "4 endpoints[0].port: 0 is not in 1..65535"),
        (ONE.replace("8000", "'70000'"), "4 endpoints[0].port: 70000 is not in 1..65535"),
        (ONE.replace("8000", "http"), "4 endpoints[0].port: 'http' is not a whole number"),
        (ONE + "  labels: [a]\n", "5 endpoints[0].labels: "),
        (ONE + "  port: 8001\n", "5 endpoints[0].port: is a duplicate key"),
        (ONE + "- {name: a, address: 10.0.0.2, port: 80}\n", "5 endpoints[1].name: a is a dup"),
        (ONE + "- {name: b, address: 10.0.0.1, port: 8000}\n", "5 endpoints[1].address: 10.0.0.1"),
    ],
)
def test_an_error_is_at_its_line_and_nothing_is_used(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    pools, problems = load(EndpointSettings(endpoints=path), PoolSettings())
    assert pools is None
    assert any(str(problem).startswith(f"{path}:{said}".replace("::", ":")) for problem in problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE + "  lables: {a: b}\n", "5 endpoints[0].lables: is not a known field and is ignored"),
        ("endpoints: []\n", "1 endpoints: is empty"),
    ],
)
def test_a_warning_leaves_the_file_in_use(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    pools, [problem] = load(EndpointSettings(endpoints=path), PoolSettings())
    assert pools is not None
    assert str(problem).startswith(f"{path}:{said}")


@pytest.mark.parametrize(
    ("text", "lists"),
    [(LLM_D, True), ("kind: Pod\n", False), ("a: [", False), ("pools: 1\n", True)],
)
def test_a_file_of_endpoints_is_recognised(tmp_path: Path, text: str, lists: bool) -> None:
    assert lists_endpoints(written(tmp_path, text)) == lists
    assert not lists_endpoints(tmp_path)
