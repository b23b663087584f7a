"""Manifest files: what is read, what is refused and where, and what follows a live edit."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp_client.errors import ManifestError
from epp_client.manifests.files import load
from epp_client.manifests.lint import lint
from epp_client.manifests.source import ManifestSource
from epp_client.pool.problems import Severity
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from testbed.stack import inference_pool, pod, service

POOL = inference_pool("p", 8000, "epp", "FailOpen")
OBJECTS = [POOL, pod("a", "10.0.0.1"), *service("epp", "10.1.0.1:9002")]


def text_of(*objects: dict[str, Any]) -> str:
    return yaml.safe_dump_all(objects, sort_keys=False)


def said(path: Path) -> list[str]:
    return [
        str(problem).removeprefix(f"{path}:") for problem in lint([path], PoolSettings()).problems
    ]


@pytest.mark.parametrize(
    "text",
    [
        text_of(*OBJECTS),
        json.dumps({"apiVersion": "v1", "kind": "List", "items": OBJECTS}, indent="\t"),
        text_of({"apiVersion": POOL["apiVersion"], "kind": "InferencePoolList", "items": [
            {key: POOL[key] for key in ("metadata", "spec")}]}, *OBJECTS[1:]),
        text_of(*OBJECTS, {"kind": "Deployment", "metadata": {"name": "other"}}),
    ],
    ids=["documents", "json list with tabs", "typed list", "other kinds"],
)  # fmt: skip
def test_every_form_of_a_dump_is_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text)
    assert said(file) == []


BOMB = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)
REFUSED = [
    ("a: [", "not YAML"),
    ("- 1\n", "not a Kubernetes object but a list"),
    ("kind: List\nitems: [1]\n", "not a Kubernetes object but a number"),
    (BOMB, "aliases"),
    ("a: &a [*a]\n", "aliases"),
    ("[" * 100_000 + "]" * 100_000, "nested more than 100 deep"),
    ("a: !!int x\n", "not YAML"),
    ("kind: Pod\nmetadata: {}\n", "metadata.name: is required"),
    (
        "kind: Pod\nmetadata: {name: a, labels: {x: 1}}\n",
        "metadata.labels.x: 1 is not a string; quote it",
    ),
    ("kind: Pod\nmetadata: {name: a, name: b}\n", "metadata.name: is a duplicate key"),
    ("kind: List\nitems: []\nitems: []\n", "items: is a duplicate key"),
    ("kind: Pod\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: a}\n", "is defined twice"),
]


@pytest.mark.parametrize(("text", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_what_is_refused_says_why(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert any(what in line for line in said(file)), said(file)


def test_a_bad_object_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    bad = "- 1\n---\nkind: EndpointSlice\nmetadata: {name: s}\nendpoints: [{addresses: [1]}]\n---\n"
    file.write_text(bad + text_of(*OBJECTS))
    assert [line.split(" ", 1)[0] for line in said(file)] == ["1:", "5"]


def test_an_override_of_a_merged_key_is_no_duplicate(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        "kind: Pod\nmetadata: {name: a}\nx: &x {k: 1}\ny: &y {<<: *x, k: 2}\nz: {<<: *y}\n"
    )
    assert said(file) == [f"no InferencePool found in {file}"]


def test_large_files_may_hold_asterisks(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("kind: X\na: '*'\nb: [" + "[1]," * 60_000 + "1]\n")
    assert load(file).problems == ()


WARNED = [
    ([POOL, *OBJECTS[2:]], "selects no Pod"),
    ([POOL, pod("a", "10.0.0.1", ready=False), *OBJECTS[2:]], "selects no ready endpoint"),
    (OBJECTS[:2], "Service default/epp does not exist"),
]


@pytest.mark.parametrize(("objects", "what"), WARNED, ids=[what for _, what in WARNED])
def test_what_would_not_serve_is_a_warning_with_its_line(
    tmp_path: Path, objects: list[dict[str, Any]], what: str
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text_of(*objects))
    [problem] = lint([file], PoolSettings()).problems
    assert problem.severity is Severity.WARNING
    assert what in problem.text
    assert problem.line is not None
    field = problem.field.rpartition(".")[2]
    assert field in file.read_text().split("\n")[problem.line - 1]


class Following:
    """A source that runs, and its store. `until` waits for the store; it never polls."""

    def __init__(self, path: Path) -> None:
        self.store = PoolStore()
        self._changed = asyncio.Event()
        self.store.subscribe(lambda _: self._changed.set())
        clock = asyncio.get_running_loop().time
        source = ManifestSource(path, self.store, PoolSettings(drain_grace=0.2), clock)
        self.task = asyncio.create_task(source.run())

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def keys(self) -> list[str]:
        snapshot = self.store.snapshots.get("default/p")
        return list(snapshot.table.by_key) if snapshot else []


@contextlib.asynccontextmanager
async def following(path: Path) -> AsyncIterator[Following]:
    found = Following(path)
    try:
        yield found
    finally:
        found.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await found.task


async def test_a_file_replaced_by_renaming_is_followed(tmp_path: Path) -> None:
    file, other = tmp_path / "all.yaml", tmp_path / "all.new"
    file.write_text(text_of(*OBJECTS))
    async with following(file) as live:
        await live.until(lambda: live.keys() == ["10.0.0.1:8000"])
        other.write_text(text_of(*OBJECTS, pod("b", "10.0.0.2")))
        other.rename(file)
        await live.until(lambda: live.keys() == ["10.0.0.1:8000", "10.0.0.2:8000"])


async def test_a_config_map_that_swaps_its_link_is_followed(tmp_path: Path) -> None:
    for name, objects in (("..1", OBJECTS), ("..2", [*OBJECTS, pod("b", "10.0.0.2")])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.yaml").write_text(text_of(*objects))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "all.yaml").symlink_to("..data/all.yaml")
    async with following(tmp_path) as live:
        await live.until(lambda: len(live.keys()) == 1)
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await live.until(lambda: len(live.keys()) == 2)


TWO = text_of(*OBJECTS, pod("b", "10.0.0.2"))
THREE = text_of(*OBJECTS, pod("b", "10.0.0.2"), pod("c", "10.0.0.3"))


@pytest.mark.parametrize("which", ["folder", "folder/all.yaml"])
@pytest.mark.parametrize("how", ["moved", "removed"])
async def test_a_directory_that_is_replaced_is_followed_on(
    tmp_path: Path, which: str, how: str
) -> None:
    folder, fresh = tmp_path / "folder", tmp_path / "fresh"
    folder.mkdir()
    (folder / "all.yaml").write_text(text_of(*OBJECTS))
    async with following(tmp_path / which) as live:
        await live.until(lambda: len(live.keys()) == 1)
        fresh.mkdir()
        (fresh / "all.yaml").write_text(TWO)
        if how == "moved":
            folder.rename(tmp_path / "old")
        else:
            shutil.rmtree(folder)
        fresh.rename(folder)
        await live.until(lambda: len(live.keys()) == 2)
        (folder / "all.yaml").write_text(THREE)
        await live.until(lambda: len(live.keys()) == 3)


@pytest.mark.parametrize("which", ["current", "current/all.yaml"])
async def test_a_link_to_a_directory_is_followed_where_it_leads(tmp_path: Path, which: str) -> None:
    for name, text in (("1", text_of(*OBJECTS)), ("2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.yaml").write_text(text)
    (tmp_path / "current").symlink_to("1")
    async with following(tmp_path / which) as live:
        await live.until(lambda: len(live.keys()) == 1)
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(tmp_path / "current")
        await live.until(lambda: len(live.keys()) == 2)
        (tmp_path / "2" / "all.yaml").write_text(THREE)
        await live.until(lambda: len(live.keys()) == 3)


async def test_manifests_may_be_in_a_checkouts_inner_folders(tmp_path: Path) -> None:
    folder = tmp_path / ".git" / "node_modules"
    folder.mkdir(parents=True)
    (folder / "all.yaml").write_text(text_of(*OBJECTS))
    async with following(folder) as live:
        await live.until(lambda: len(live.keys()) == 1)
        (folder / "all.yaml").write_text(TWO)
        await live.until(lambda: len(live.keys()) == 2)


async def test_a_draining_endpoint_goes_when_its_time_is_up(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text_of(*OBJECTS))
    async with following(file) as live:
        await live.until(lambda: len(live.keys()) == 1)
        ready = [bool(live.store.snapshots["default/p"].table.ready)]
        live.store.subscribe(
            lambda _: ready.append(bool(live.store.snapshots["default/p"].table.ready))
        )
        file.write_text(text_of(POOL, pod("a", "10.0.0.1", ready=False), *OBJECTS[2:]))
        await live.until(lambda: live.keys() == [])
    assert ready[0]
    assert not any(ready[1:])


def source_of(path: Path) -> tuple[ManifestSource, PoolStore]:
    store = PoolStore()
    return ManifestSource(path, store, PoolSettings(), lambda: 0.0), store


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        ("a: [", "not YAML"),
        (text_of(POOL).replace("8000", "70000"), "70000 is not in 1..65535"),
        (None, "cannot be read"),
    ],
    ids=["broken file", "invalid pool", "no file"],
)
def test_a_bad_edit_keeps_the_last_good_pool(tmp_path: Path, edit: str | None, what: str) -> None:
    pools, pods = tmp_path / "pools.yaml", tmp_path / "pods.yaml"
    path = pools if edit is None else tmp_path
    pools.write_text(text_of(POOL) if edit is not None else text_of(*OBJECTS))
    pods.write_text(text_of(*OBJECTS[1:]))
    source, store = source_of(path)
    source.reload()
    before = store.snapshots
    if edit is None:
        pools.unlink()
    else:
        pools.write_text(edit)
        pods.write_text(text_of(*OBJECTS[1:], pod("b", "10.0.0.2")))
    source.reload()
    assert any(what in str(problem) for problem in store.problems)
    table = store.snapshots["default/p"].table
    if edit is None:
        assert store.snapshots == before
    else:
        assert list(table.by_key) == ["10.0.0.1:8000", "10.0.0.2:8000"]


def test_a_pool_taken_out_of_a_good_file_goes(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text_of(*OBJECTS))
    source, store = source_of(file)
    source.reload()
    file.write_text(text_of(*OBJECTS[1:]))
    source.reload()
    assert store.snapshots == {}


def test_a_first_load_that_fails_leaves_the_pools_unknown(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("a: [")
    source, store = source_of(file)
    source.reload()
    assert not store.synced
    assert store.problems


async def test_a_directory_that_cannot_be_watched_is_an_error(tmp_path: Path) -> None:
    source, _ = source_of(tmp_path / "none" / "all.yaml")
    with pytest.raises(ManifestError, match="cannot be watched"):
        await source.run()


async def test_cancellation_ends_the_source(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with following(tmp_path) as live:
        await live.until(lambda: live.store.synced)
    assert live.task.cancelled()
    assert asyncio.all_tasks() == before


def renamed(item: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**item, **fields}


@pytest.mark.parametrize("first", [True, False])
def test_an_object_of_another_group_with_the_same_kind_and_name_disturbs_nothing(
    tmp_path: Path, first: bool
) -> None:
    old = renamed(
        POOL,
        apiVersion="inference.networking.x-k8s.io/v1alpha2",
        spec={
            "selector": {"app": "model"},
            "targetPortNumber": 8000,
            "extensionRef": {"name": "epp"},
        },
    )
    knative = renamed(OBJECTS[2], apiVersion="serving.knative.dev/v1", spec={"template": {}})
    foreign = [old, knative]
    (tmp_path / "all.yaml").write_text(text_of(*(foreign if first else []), *OBJECTS, *foreign))
    store = PoolStore()
    ManifestSource(tmp_path, store, PoolSettings(), lambda: 0.0).reload()
    (snapshot,) = store.snapshots.values()
    assert [*snapshot.table.by_key] == ["10.0.0.1:8000"]
    assert snapshot.picker is not None
    assert snapshot.picker.addresses == ("10.1.0.1:9002",)
    # Named all the same: somebody may believe that it is served.
    assert {(p.severity, p.subject, p.text) for p in store.problems} == {
        (
            Severity.WARNING,
            "InferencePool.inference.networking.x-k8s.io default/p",
            "'inference.networking.x-k8s.io/v1alpha2' is not read; "
            "write inference.networking.k8s.io/v1",
        )
    }


@pytest.mark.parametrize("kind", ["inferencepool", "InferencePOOL", "Inferencepool"])
def test_a_kind_in_other_letters_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "all.yaml").write_text(text_of(renamed(POOL, kind=kind), *OBJECTS[1:]))
    problems = lint([tmp_path], PoolSettings()).problems
    assert [p.text for p in problems if p.field == "kind"] == [
        f"{kind!r} is not read; write InferencePool"
    ]
    assert any(p.severity is Severity.ERROR for p in problems)


def test_what_lies_beside_the_manifests_and_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(text_of(*OBJECTS))
    for name in ("README.md", "ca.pem", ".hidden.yaml.swp"):
        (tmp_path / name).write_text("x")
    for folder in ("team-a", "..2026_11_29", "empty"):
        (tmp_path / folder).mkdir()
    for folder in ("team-a", "..2026_11_29"):
        (tmp_path / folder / "pool.yaml").write_text(text_of(POOL))
    for name in ("pool.yaml.tmpl", "more.YAML", "pools.toml", "old.json.bak"):
        (tmp_path / name).write_text("x")
    found = {problem.file: problem.text for problem in lint([tmp_path], PoolSettings()).problems}
    assert {Path(name).name for name in found} == {
        "team-a", "pool.yaml.tmpl", "more.YAML", "pools.toml", "old.json.bak",
    }  # fmt: skip
    assert found[str(tmp_path / "team-a")].startswith("sub-directories are not read")


def test_a_sub_folder_that_cannot_be_listed_keeps_nothing_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "all.yaml").write_text(text_of(*OBJECTS))
    (tmp_path / "lost+found").mkdir()
    listed = Path.iterdir

    # root, as who tests may run, may list every folder
    def iterdir(path: Path) -> Any:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    loaded = load(tmp_path)
    assert (len(loaded.objects), loaded.problems, loaded.failed) == (1, (), frozenset())


@pytest.mark.parametrize("status", [{"podIP": "10.0.0"}, {"podIPs": [{"ip": "ten"}]}])
def test_an_ip_that_is_none_is_an_error(tmp_path: Path, status: dict[str, Any]) -> None:
    bad = pod("a", "10.0.0.1")
    bad["status"] |= status
    file = tmp_path / "all.yaml"
    file.write_text(text_of(POOL, bad, *OBJECTS[2:]))
    assert any("is not a usable IP address" in text for text in said(file))


NEVER = [
    ({"kind": "Deployment"}, "kind Deployment is not supported; only Service is"),
    ({"port": {"number": 9999}}, "has no port 9999 for TCP; the ports are 9002"),
]


@pytest.mark.parametrize(("ref", "what"), NEVER)
def test_a_reference_that_can_never_work_is_an_error(
    tmp_path: Path, ref: dict[str, Any], what: str
) -> None:
    pool = inference_pool("p", 8000, "epp", "FailOpen")
    pool["spec"]["endpointPickerRef"] |= ref
    file = tmp_path / "all.yaml"
    file.write_text(text_of(pool, *OBJECTS[1:]))
    [problem] = lint([file], PoolSettings()).problems
    assert problem.severity is Severity.ERROR
    assert what in problem.text


def test_only_live_manifests_have_to_have_everything(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text_of(POOL))
    for live, severity in ((False, Severity.WARNING), (True, Severity.ERROR)):
        found = lint([file], PoolSettings(), live=live)
        assert [problem.severity for problem in found.problems] == [severity] * 2
        assert str(found) == "1 pool, 0 endpoints, 1 picker without an address"


def test_what_would_be_served_is_summed_up(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(text_of(POOL, inference_pool("q", 8000, None, "")))
    (tmp_path / "rest.yaml").write_text(text_of(*OBJECTS[1:]))
    found = lint([tmp_path / "pool.yaml", tmp_path / "rest.yaml"], PoolSettings())
    assert str(found) == "2 pools, 2 endpoints, picker 10.1.0.1:9002, 1 without a picker"
