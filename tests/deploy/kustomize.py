"""What `kubectl apply -k` would send, read without kubectl: the parts of kustomize that `config/` uses.

Anything else in a kustomization is an error here, so that nothing is silently left out. Where kubectl is
installed a test compares the two.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""Lists that a strategic merge patch merges item by item."""
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "GatewayClass"}
HASHED = "-hash"
"""What stands here for kustomize's hash of a generated ConfigMap."""


def render(folder: Path) -> list[Object]:
    """All objects of a kustomization."""
    return _build(folder, [])


def _build(folder: Path, objects: list[Object]) -> list[Object]:
    spec = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert spec.pop("apiVersion").startswith("kustomize.config.k8s.io/")
    is_component = spec.pop("kind") == "Component"
    mine: list[Object] = objects if is_component else []
    for item in spec.pop("resources", []):
        path = folder / item
        mine += _build(path, []) if path.is_dir() else _documents(path.read_text())
    for item in spec.pop("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in item["files"]}
        mine.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": item["name"]},
                "data": data,
            }
        )
        mine[:] = _renamed(mine, item["name"], item["name"] + HASHED)
    for item in spec.pop("components", []):
        _build(folder / item, mine)
    for item in spec.pop("patches", []):
        _patch(mine, item, folder)
    for item in spec.pop("labels", []):
        for made in mine:
            made["metadata"].setdefault("labels", {}).update(item["pairs"])
    for item in spec.pop("images", []):
        for container in _containers(mine):
            if container["image"] == item["name"]:
                container["image"] = f"{item['newName']}:{item['newTag']}"
    for item in spec.pop("replacements", []):
        _replace(mine, item)
    if (namespace := spec.pop("namespace", None)) is not None:
        for made in mine:
            if made["kind"] not in CLUSTER_SCOPED:
                made["metadata"]["namespace"] = namespace
            for subject in made.get("subjects", []):
                subject["namespace"] = namespace
    assert not spec, f"{folder}: {sorted(spec)} is not read here"
    return mine


def _documents(text: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(text) if item]


def _containers(objects: list[Object]) -> Iterator[Object]:
    for made in objects:
        pod = made.get("spec", {}).get("template", {}).get("spec", {})
        yield from pod.get("initContainers", [])
        yield from pod.get("containers", [])


def _renamed(objects: list[Object], old: str, new: str) -> list[Object]:
    text = json.dumps(objects).replace(f'"name": "{old}"', f'"name": "{new}"')
    renamed: list[Object] = json.loads(text)
    return renamed


def _patch(objects: list[Object], item: Object, folder: Path) -> None:
    text = item["patch"] if "patch" in item else (folder / item["path"]).read_text()
    patch = yaml.safe_load(text)
    target = item.get("target") or {
        "kind": patch["kind"],
        "name": patch["metadata"]["name"],
    }
    matching = [
        made
        for made in objects
        if made["kind"] == target["kind"] and target.get("name") in (None, made["metadata"]["name"])
    ]
    for made in matching:
        if isinstance(patch, list):
            for operation in patch:
                _json_patch(made, operation)
        elif patch.get("$patch") == "delete":
            objects.remove(made)
        else:
            name = made["metadata"]["name"]
            merged = _merged(made, patch)
            made.clear()
            made.update(merged)
            made["metadata"]["name"] = name


def _replace(objects: list[Object], item: Object) -> None:
    """Copy a field of one object into others."""
    source = item["source"]
    at, field = _field(_selected(objects, source), source["fieldPath"])
    for target in item["targets"]:
        for path in target["fieldPaths"]:
            into, last = _field(_selected(objects, target["select"]), path)
            into[last] = at[field]


def _selected(objects: list[Object], by: Object) -> Object:
    [found] = [
        made
        for made in objects
        if (made["kind"], made["metadata"]["name"]) == (by["kind"], by["name"])
    ]
    return found


def _field(made: Object, path: str) -> tuple[Object, str]:
    """The object that has the field of `a.b.[name=x].c`, and the field's name."""
    *way, last = path.split(".")
    at: Any = made
    for step in way:
        if step.startswith("["):
            key, _, value = step.strip("[]").partition("=")
            [at] = [one for one in at if one[key] == value]
        else:
            at = at[step]
    return at, last


def _json_patch(made: Object, operation: Object) -> None:
    *way, last = operation["path"].strip("/").split("/")
    at: Any = made
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    key: Any = last if isinstance(at, dict) or last == "-" else int(last)
    match operation["op"]:
        case "test":
            assert at[key] == operation["value"], operation
        case "remove":
            del at[key]
        case "add" if key == "-":
            at.append(operation["value"])
        case "add" if isinstance(at, dict):
            at[key] = operation["value"]
        case other:
            raise AssertionError(f"{other} is not read here")


def _merged(old: Any, new: Any, field: str = "") -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        result = dict(old)
        for key, value in new.items():
            result[key] = _merged(old[key], value, key) if key in old else deepcopy(value)
        return result
    if isinstance(old, list) and isinstance(new, list) and field in MERGE_KEYS:
        key = MERGE_KEYS[field]
        ours = {item[key]: item for item in old}
        first = [_merged(ours[i[key]], i) if i[key] in ours else deepcopy(i) for i in new]
        named = {item[key] for item in new}
        # kustomize puts what the patch names first.
        return [*first, *(item for item in old if item[key] not in named)]
    return deepcopy(new)
