"""The objects of the API double, with their versions and history. No HTTP.

The rules are those of a kube-apiserver, with which tests/cluster compares the double: one version counter
for all resources; a write without changes does nothing; `status` is written only through its subresource;
`generation` counts other changes; an object with finalizers, or a running Pod, is deleted in two steps;
history can be compacted.
"""

import copy
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from epp_client.kubernetes.client.resources import (
    CONFIG_MAP,
    ENDPOINT_SLICE,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    INFERENCE_POOL,
    LEASE,
    NAMESPACE,
    POD,
    REFERENCE_GRANT,
    SECRET,
    SERVICE,
    Resource,
)
from epp_client.pool.selector import parse_selector
from testbed.kubernetes.patches import Object, Refusal, json_patch, merge_patch

Key = tuple[str, str]
"""Namespace and name."""

WITH_STATUS = frozenset({INFERENCE_POOL, POD, SERVICE, HTTP_ROUTE, GATEWAY, GATEWAY_CLASS})
WITHOUT_GENERATION = frozenset({SERVICE, LEASE, SECRET, CONFIG_MAP, NAMESPACE})
CUSTOM = frozenset({INFERENCE_POOL, HTTP_ROUTE, GATEWAY, GATEWAY_CLASS, REFERENCE_GRANT})
"""Kinds of CRDs, which exist only while installed, and whose updates need a resourceVersion."""
ALL = (
    *(POD, SERVICE, ENDPOINT_SLICE, LEASE, NAMESPACE, SECRET, CONFIG_MAP),
    *(INFERENCE_POOL, HTTP_ROUTE, GATEWAY, GATEWAY_CLASS, REFERENCE_GRANT),
)


def expired(version: int, oldest: int) -> Refusal:
    return Refusal(410, "Expired", f"too old resource version: {version} ({oldest})")


class Change(NamedTuple):
    """One write. `before` is None for a creation, `after` for a deletion."""

    version: int
    resource: Resource
    key: Key
    before: Object | None
    after: Object | None


def selected(found: Object, labels: str, fields: str = "") -> bool:
    """Whether an object matches a label selector and an equality-based field selector."""
    metadata = found["metadata"]
    if not parse_selector(labels).matches(metadata.get("labels") or {}):
        return False
    for term in filter(None, fields.split(",")):
        key, _, value = term.partition("=")
        if key not in ("metadata.name", "metadata.namespace"):
            raise Refusal(400, "BadRequest", f"field label not supported: {key}")
        if metadata.get(key.removeprefix("metadata.")) != value.removeprefix("="):
            return False
    return True


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Objects:
    """All objects. They are values: a write replaces the object."""

    version: int = 1000
    oldest: int = 1000
    """History before this version has been compacted."""
    served: set[Resource] = field(default_factory=lambda: set(ALL))
    history: list[Change] = field(default_factory=list)
    listeners: list[Callable[[Change], None]] = field(default_factory=list)
    _by_resource: dict[Resource, dict[Key, Object]] = field(default_factory=dict)
    _snapshots: dict[str, list[Object]] = field(default_factory=dict)

    # --- reading ---

    def get(self, resource: Resource, key: Key) -> Object:
        found = self._by_resource.get(resource, {}).get(key)
        if found is None:
            name = f'{resource} "{key[1]}" not found'
            raise Refusal(404, "NotFound", name, name=key[1], kind=resource.plural)
        return found

    def all(
        self, resource: Resource, namespace: str | None, labels: str = "", fields: str = ""
    ) -> list[Object]:
        return [
            found
            for key, found in sorted(self._by_resource.get(resource, {}).items())
            if namespace in (None, key[0]) and selected(found, labels, fields)
        ]

    def page(
        self,
        resource: Resource,
        namespace: str | None,
        labels: str,
        fields: str,
        limit: int,
        token: str,
    ) -> Object:
        """One page of a list. Later pages show the state of the first, until it is compacted."""
        if token:
            snapshot, _, rest = token.partition(".")
            version, start = map(int, rest.split("."))
            if version < self.oldest or snapshot not in self._snapshots:
                text = "The provided continue parameter is too old to display a consistent list result."
                raise Refusal(410, "Expired", text)
            items = self._snapshots[snapshot]
        else:
            version, start = self.version, 0
            items = self.all(resource, namespace, labels, fields)
            snapshot = secrets.token_hex(8)
        end = start + limit if limit else len(items)
        metadata = {"resourceVersion": str(version)}
        if end < len(items):
            self._snapshots[snapshot] = items
            metadata["continue"] = f"{snapshot}.{version}.{end}"
        else:
            self._snapshots.pop(snapshot, None)
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": [_item(resource, found) for found in items[start:end]],
        }

    def since(self, version: int) -> list[Change]:
        """What happened after `version`."""
        if version < self.oldest:
            raise expired(version, self.oldest)
        return [change for change in self.history if change.version > version]

    # --- writing ---

    def adopt(self, version: int, resource: Resource, key: Key, after: Object | None) -> None:
        """Restore a write of an earlier server, without notifying listeners."""
        by_key = self._by_resource.setdefault(resource, {})
        before = by_key.pop(key, None)
        if after is not None:
            by_key[key] = after
        self.version = version
        self.history.append(Change(version, resource, key, before, after))

    def compact(self) -> None:
        """Compact the history: watches from earlier versions, and further pages, get 410."""
        # As if another object had been written, so that no client has the newest version.
        self.version += 1
        self.oldest = self.version
        self.history.clear()
        self._snapshots.clear()

    def create(self, resource: Resource, namespace: str, data: Object) -> Object:
        data = copy.deepcopy(data)
        metadata = data.setdefault("metadata", {})
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise Refusal(422, "Invalid", f"{resource.kind} is invalid: name is required")
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
        if metadata.get("namespace") not in (None, namespace):
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise Refusal(400, "BadRequest", text)
        if resource.namespaced:
            metadata["namespace"] = namespace
        key = (namespace, metadata["name"])
        if key in self._by_resource.get(resource, {}):
            text = f'{resource} "{key[1]}" already exists'
            raise Refusal(409, "AlreadyExists", text, name=key[1])
        if metadata.get("resourceVersion"):
            text = "resourceVersion should not be set on objects to be created"
            raise Refusal(400, "BadRequest", text)
        data |= {"kind": resource.kind, "apiVersion": resource.api_version}
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if resource not in WITHOUT_GENERATION:
            metadata["generation"] = 1
        if resource in WITH_STATUS:
            data.pop("status", None)
            if resource is POD:
                data["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return self._write(resource, key, data)

    def replace(
        self,
        resource: Resource,
        key: Key,
        data: Object,
        subresource: str = "",
        *,
        patched: bool = False,
    ) -> Object:
        """Replace an object, by a PUT, or by a patch, which needs no resourceVersion."""
        before = self.get(resource, key)
        metadata = data.get("metadata") or {}
        version = metadata.get("resourceVersion")
        if not version and not patched and (resource in CUSTOM or resource is LEASE):
            text = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            raise Refusal(422, "Invalid", text)
        if version and version != before["metadata"]["resourceVersion"]:
            text = f'Operation cannot be fulfilled on {resource} "{key[1]}": the object has been modified; '
            text += "please apply your changes to the latest version and try again"
            raise Refusal(409, "Conflict", text, name=key[1])
        if metadata.get("uid") not in (None, before["metadata"]["uid"]):
            raise Refusal(409, "Conflict", "Precondition failed: UID in precondition differs")
        if subresource == "status":
            after = {**before, "status": copy.deepcopy(data.get("status", {}))}
        else:
            after = copy.deepcopy(data)
            kept = (
                "uid",
                "creationTimestamp",
                "generation",
                "deletionTimestamp",
                "name",
                "namespace",
            )
            old = before["metadata"]
            after["metadata"] = {k: v for k, v in metadata.items() if k not in kept}
            after["metadata"] |= {k: old[k] for k in kept if k in old}
            if resource in WITH_STATUS:
                after.pop("status", None)
                if "status" in before:
                    after["status"] = before["status"]
            if "generation" in old and _specification(after) != _specification(before):
                after["metadata"]["generation"] = old["generation"] + 1
        after = {**after, "metadata": {**after["metadata"]}}
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if after == before:
            return before
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            return self._remove(resource, key, after)
        return self._write(resource, key, after)

    def patch(
        self, resource: Resource, key: Key, content_type: str, text: bytes, subresource: str = ""
    ) -> Object:
        patch = json.loads(text)
        before = self.get(resource, key)
        match content_type:
            case "application/merge-patch+json":
                after = merge_patch(before, patch)
            case "application/json-patch+json":
                after = json_patch(before, patch)
            case _:
                known = "application/json-patch+json, application/merge-patch+json"
                text_ = f"the body of the request was in an unknown format - accepted: {known}"
                raise Refusal(415, "UnsupportedMediaType", text_)
        if "resourceVersion" not in (patch.get("metadata", {}) if isinstance(patch, dict) else {}):
            after["metadata"] = {**after["metadata"]}
            after["metadata"].pop("resourceVersion", None)
        return self.replace(resource, key, after, subresource, patched=True)

    def delete(self, resource: Resource, key: Key, options: Mapping[str, Any]) -> Object:
        """Delete an object. Running Pods and objects with finalizers are only marked.
        Other Pods are marked and removed at once: a watch has both events.
        """
        found = self.get(resource, key)
        grace = options.get("gracePeriodSeconds")
        runs = resource is POD and found.get("spec", {}).get("nodeName") and grace != 0
        if not runs and not found["metadata"].get("finalizers"):
            if resource is POD:
                marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
                marked = {**found, "metadata": {**found["metadata"], **marks}}
                found = self._write(resource, key, marked)
            return self._remove(resource, key, found)
        if found["metadata"].get("deletionTimestamp"):
            return found
        metadata = {**found["metadata"], "deletionTimestamp": now()}
        metadata["deletionGracePeriodSeconds"] = (30 if grace is None else grace) if runs else 0
        if "generation" in metadata:
            metadata["generation"] += 1
        return self._write(resource, key, {**found, "metadata": metadata})

    def install(self, resource: Resource) -> None:
        """Install a CRD."""
        self.served.add(resource)

    def uninstall(self, resource: Resource) -> None:
        """Uninstall a CRD, with all of its objects."""
        for key, found in list(self._by_resource.get(resource, {}).items()):
            self._remove(resource, key, found)
        self.served.discard(resource)

    def _write(self, resource: Resource, key: Key, after: Object) -> Object:
        by_key = self._by_resource.setdefault(resource, {})
        before = by_key.get(key)
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        by_key[key] = after
        self._tell(Change(self.version, resource, key, before, after))
        return after

    def _remove(self, resource: Resource, key: Key, found: Object) -> Object:
        self.version += 1
        gone = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        before = self._by_resource[resource].pop(key)
        self._tell(
            Change(self.version, resource, key, {**before, "metadata": gone["metadata"]}, None)
        )
        return gone

    def _tell(self, change: Change) -> None:
        self.history.append(change)
        for listener in list(self.listeners):
            listener(change)


def _item(resource: Resource, found: Object) -> Object:
    """Items of built-in kinds have no kind and apiVersion."""
    if resource in CUSTOM:
        return found
    return {k: v for k, v in found.items() if k not in ("kind", "apiVersion")}


def _specification(found: Object) -> Object:
    return {k: v for k, v in found.items() if k not in ("metadata", "status", "kind", "apiVersion")}
