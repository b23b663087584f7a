"""InferencePool v1: every rule, every fault where it is."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp_client.manifests.lint import lint
from epp_client.pool.endpoints import endpoint_key, parse_endpoint
from epp_client.pool.inference_pool import AppProtocol, FailureMode
from epp_client.pool.parse import parse_duration, parse_inference_pool, parse_size
from epp_client.pool.problems import dotted
from epp_client.pool.settings import PoolSettings, ResponseMode

GOOD: dict[str, Any] = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "llama", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "llama"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = path.split(".")
    at = data
    for key in parents:
        at = at[key]
    if value is None:
        at.pop(last, None)
    else:
        at[last] = value
    return data


def test_defaults() -> None:
    pool, faults = parse_inference_pool(GOOD, PoolSettings())
    assert not faults
    assert pool is not None
    assert pool.app_protocol is AppProtocol.HTTP
    assert pool.failure_mode is FailureMode.FAIL_CLOSE
    assert str(pool.name) == "default/llama"


BAD = [
    ("apiVersion", "inference.networking.x-k8s.io/v1alpha2", "apiVersion", "is not supported"),
    ("metadata.name", "Llama", "metadata.name", "not a DNS name"),
    ("spec.selector", None, "spec.selector", "is required"),
    ("spec.selector.matchLabels", {f"k{n}": "v" for n in range(65)}, "matchLabels", "more than 64"),
    ("spec.selector.matchLabels", {"-": "v"}, "matchLabels", "not a label key"),
    ("spec.selector.matchLabels", {"/k": "v"}, "matchLabels['/k']", "not a label key"),
    ("spec.selector.matchLabels", {"a..b/k": "v"}, "matchLabels['a..b/k']", "not a label key"),
    ("spec.selector.matchLabels", {"k": 1}, "matchLabels.k", 'quote it: "1"'),
    ("metadata.namespace", "a.b", "metadata.namespace", "not a DNS label"),
    ("metadata.name", "a..b", "metadata.name", "not a DNS name"),
    ("spec.targetPorts", [{"number": True}], "[0].number", "not a whole number"),
    ("spec.endpointPickerRef.port.number", 0, "endpointPickerRef.port.number", "not in 1..65535"),
    ("spec.selector.matchLabels", {"k": "-"}, "matchLabels", "not a label value"),
    ("spec.targetPorts", [], "spec.targetPorts", "not 1 to 8"),
    ("spec.targetPorts", [{"number": n} for n in range(1, 10)], "spec.targetPorts", "not 1 to 8"),
    ("spec.targetPorts", [{"number": 1}, {"number": 70000}], "[1].number", "not in 1..65535"),
    ("spec.targetPorts", [{"number": 1}, {"number": 1}], "[1].number", "is a duplicate"),
    ("spec.targetPorts", [{"number": "80"}], "[0].number", "write 80, without quotes"),
    ("spec.appProtocol", "grpc", "spec.appProtocol", "is not one of"),
    ("spec.endpointPickerRef.name", None, "endpointPickerRef.name", "is required"),
    ("spec.endpointPickerRef.port", None, "endpointPickerRef.port", "is required when"),
    ("spec.endpointPickerRef.failureMode", "Fail", "failureMode", "is not one of"),
]


@pytest.mark.parametrize(("path", "value", "where", "what"), BAD)
def test_each_bad_field_is_named(path: str, value: object, where: str, what: str) -> None:
    pool, faults = parse_inference_pool(changed(path, value), PoolSettings())
    assert pool is None
    assert any(where in dotted(fault.path) and what in fault.text for fault in faults), faults


def test_all_faults_of_an_object_are_reported() -> None:
    data = changed("spec.targetPorts", [{"number": 70000}, {"number": 1}, {"number": 1}])
    data["spec"]["selector"]["matchLabels"] = {"-": "v", "k": "-"}
    del data["spec"]["endpointPickerRef"]["port"]
    data["metadata"]["annotations"] = {"epp-client.dev/tls": "maybe"}
    pool, faults = parse_inference_pool(data, PoolSettings())
    assert pool is None
    assert {dotted(fault.path) for fault in faults} == {
        "spec.targetPorts[0].number",
        "spec.targetPorts[2].number",
        "spec.selector.matchLabels.-",
        "spec.selector.matchLabels.k",
        "spec.endpointPickerRef.port",
        "metadata.annotations['epp-client.dev/tls']",
    }


def test_nulls_are_pruned() -> None:
    data = changed("spec.appProtocol", "http")
    data["spec"] |= {"appProtocol": None}
    data["metadata"] |= {"annotations": None, "namespace": None}
    data["spec"]["endpointPickerRef"] |= {"failureMode": None, "kind": None, "group": None}
    assert parse_inference_pool(data, PoolSettings()) == parse_inference_pool(GOOD, PoolSettings())


UNREAD = [
    ("spec.extensionRef", {"name": "epp"}, "error", "is of v1alpha2; write endpointPickerRef"),
    ("spec.targetPortNumber", 8000, "error", "is of v1alpha2; write `targetPorts: [{number: …}]`"),
    ("spec.selector.matchExpressions", [], "error", "an InferencePool has only matchLabels"),
    ("spec.endpointPickerRef.failuremode", "FailOpen", "error", "did you mean failureMode?"),
    ("spec.endpointPickerRef.failMode", "FailOpen", "error", "did you mean failureMode?"),
    ("spec.appprotocol", "kubernetes.io/h2c", "error", "did you mean appProtocol?"),
    ("spec.selector.matchlabels", {}, "error", "did you mean matchLabels?"),
    ("spec.later", 1, "warning", "is not a field of an InferencePool and is ignored"),
    ("spec.endpointPickerRef.weight", 1, "warning", "is not a field of an InferencePool"),
    ("spec.endpointPickerRef.port.name", "grpc", "warning", "is not a field of an InferencePool"),
]


@pytest.mark.parametrize(("path", "value", "severity", "what"), UNREAD, ids=[u[0] for u in UNREAD])
def test_a_field_that_is_not_read_is_named(
    path: str, value: object, severity: str, what: str
) -> None:
    """An error where it changes who is served or how it fails."""
    pool, faults = parse_inference_pool(changed(path, value), PoolSettings())
    assert (pool is None) == (severity == "error")
    [fault] = faults
    assert (dotted(fault.path), fault.severity) == (path, severity)
    assert what in fault.text


INSTEAD = [
    ("spec.endpointPickerRef.port", 9002, "9002 is not a mapping; write `port: {number: 9002}`"),
    ("spec.targetPorts", [8000], "8000 is not a mapping; write `- {number: 8000}`"),
    ("spec.targetPorts", {"number": 8000}, "is not a list; begin each entry with `- `"),
    ("spec.selector.matchLabels", {"on": True}, 'True is not a string; quote it: "true"'),
    ("spec.selector.matchLabels", ["a"], "['a'] is not a mapping of names to values"),
    ("spec.endpointPickerRef.failureMode", "failopen", "write FailOpen"),
    ("spec.selector", "app=llama", "'app=llama' is not a mapping"),
]


@pytest.mark.parametrize(("path", "value", "what"), INSTEAD, ids=[i[2] for i in INSTEAD])
def test_a_message_says_what_to_write_instead(path: str, value: object, what: str) -> None:
    _, faults = parse_inference_pool(changed(path, value), PoolSettings())
    texts = [fault.text for fault in faults]
    assert any(what in text for text in texts), texts
    assert not any("_P" in text or "Input" in text or "instance of" in text for text in texts)


def test_a_misspelt_annotation_is_told_the_nearest_name() -> None:
    data = changed("metadata.annotations", {"epp-client.dev/pick-timout": "1s"})
    [fault] = parse_inference_pool(data, PoolSettings())[1]
    assert "did you mean epp-client.dev/pick-timeout?" in fault.text


@pytest.mark.parametrize("ref", [{"kind": "Other"}, {"kind": "Service", "group": "example.com"}])
def test_a_foreign_picker_kind_is_left_to_resolution(ref: dict[str, str]) -> None:
    data = changed("spec.endpointPickerRef", GOOD["spec"]["endpointPickerRef"] | ref)
    pool, faults = parse_inference_pool(data, PoolSettings())
    assert pool is not None
    assert not faults


def test_a_client_certificate_without_its_key_is_not_used() -> None:
    annotations = {"epp-client.dev/tls-cert-file": "/c.pem"}
    pool, faults = parse_inference_pool(
        changed("metadata.annotations", annotations), PoolSettings()
    )
    assert pool is not None
    assert pool.settings == PoolSettings()
    assert "go together" in faults[0].text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = [
    "metadata", "metadata.annotations", "spec", "spec.selector", "spec.selector.matchLabels",
    "spec.targetPorts", "spec.endpointPickerRef", "spec.endpointPickerRef.port",
]  # fmt: skip


@given(st.sampled_from(FIELDS), json_values)
def test_no_value_of_any_field_makes_parsing_fail(path: str, value: object) -> None:
    pool, faults = parse_inference_pool(changed(path, value), PoolSettings())
    assert pool is not None or faults


def test_the_message_has_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text(
        yaml.safe_dump(
            changed("spec.targetPorts", [{"number": 1}, {"number": 70000}]), sort_keys=False
        )
    )
    line = file.read_text().split("\n").index("  - number: 70000") + 1
    [problem] = lint([file], PoolSettings()).problems
    assert str(problem) == (
        f"{file}:{line} InferencePool default/llama spec.targetPorts[1].number: "
        "70000 is not in 1..65535"
    )


def test_annotations_set_the_pools_own_deadlines() -> None:
    annotations = {
        "epp-client.dev/pick-timeout": "250ms",
        "epp-client.dev/response-mode": "observe",
        "epp-client.dev/max-retained-body": "1Mi",
        "epp-client.dev/tls": "plaintext",
    }
    pool, faults = parse_inference_pool(
        changed("metadata.annotations", annotations), PoolSettings()
    )
    assert not faults
    assert pool is not None
    assert pool.settings.pick_timeout == 0.25
    assert pool.settings.response_mode is ResponseMode.OBSERVE
    assert pool.settings.max_retained_body == 1 << 20


@pytest.mark.parametrize(
    ("name", "value"), [("pick-timeout", "soon"), ("pick-timout", "1s"), ("tls", "maybe")]
)
def test_a_bad_annotation_is_reported_and_the_pool_serves(name: str, value: str) -> None:
    annotations = {f"epp-client.dev/{name}": value}
    pool, faults = parse_inference_pool(
        changed("metadata.annotations", annotations), PoolSettings()
    )
    assert pool is not None
    assert pool.settings == PoolSettings()
    assert len(faults) == 1


def test_durations_and_sizes() -> None:
    assert [parse_duration(text) for text in ("10", "0.5", "250ms", "2s", "1m")] == [
        10, 0.5, 0.25, 2, 60,
    ]  # fmt: skip
    assert [parse_size(text) for text in ("7", "2Ki", "1Mi")] == [7, 2048, 1 << 20]


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_canonical_key_reads_back(address: Any, port: int) -> None:
    key = endpoint_key(str(address), port)
    mapped = address.version == 6 and address.ipv4_mapped is not None
    if not mapped and "%" not in str(address):
        assert parse_endpoint(key) == key


@pytest.mark.parametrize(
    "text",
    ["", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:080", "1.2.3.4:65536", "host:80", "01.2.3.4:80",
     "::1:80", "[::1]", "[fe80::1%eth0]:80", "[::ffff:1.2.3.4]:80", "[1.2.3.4]:80", "１.2.3.4:80",
     "1.2.3.4:８0", "1.2.3.4:+80", "9" * 100],
)  # fmt: skip
def test_what_is_not_an_endpoint(text: str) -> None:
    assert parse_endpoint(text) is None


@given(st.text(max_size=80))
def test_nothing_makes_the_reader_of_endpoints_fail(text: str) -> None:
    key = parse_endpoint(text)
    assert key is None or parse_endpoint(key) == key
