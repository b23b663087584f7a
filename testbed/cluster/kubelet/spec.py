"""What a Pod's spec means for its containers: variables, arguments, users, ports. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from testbed.cluster.api import Object

_REFERENCE = re.compile(r"\$\$|\$\((\w[\w.-]*)\)")


class BadSpec(Exception):
    """The container cannot be made; the text tells why, as the Pod's status will."""


@dataclass(frozen=True)
class Identity:
    """Who a container's processes are."""

    user: int
    group: int
    groups: tuple[int, ...]


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` is the variable's value, `$$` is a dollar. An unknown name stays as it is written."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else variables.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def words(container: Object, entrypoint: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """The command line of a container."""
    given = [*(container.get("command") or entrypoint), *(container.get("args") or ())]
    return [expanded(word, variables) for word in given]


def field(pod: Object, path: str) -> str:
    """A field of the downward API.

    Raises:
        BadSpec: this kubelet does not know it.
    """
    metadata = pod["metadata"]
    simple: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: metadata["name"],
        "metadata.namespace": lambda: metadata["namespace"],
        "metadata.uid": lambda: metadata["uid"],
        "spec.nodeName": lambda: pod["spec"]["nodeName"],
        "spec.serviceAccountName": lambda: pod["spec"].get("serviceAccountName", "default"),
        "status.podIP": lambda: pod["status"]["podIP"],
        "status.podIPs": lambda: pod["status"]["podIP"],
        "status.hostIP": lambda: pod["status"]["hostIP"],
        "metadata.labels": lambda: _listed(metadata.get("labels")),
        "metadata.annotations": lambda: _listed(metadata.get("annotations")),
    }
    if path in simple:
        return simple[path]()
    if one := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((metadata.get(one[1]) or {}).get(one[2], ""))
    raise BadSpec(f"the field {path} is not known here")


def _listed(values: Mapping[str, str] | None) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted((values or {}).items()))


def variables(
    container: Object, pod: Object, data: Callable[[str, str], Mapping[str, str] | None]
) -> dict[str, str]:
    """The variables of a container. `data(kind, name)` is the content of a ConfigMap or Secret.

    Raises:
        BadSpec: a ConfigMap, a Secret, a key or a field is missing.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        kind = "ConfigMap" if "configMapRef" in source else "Secret"
        reference = source.get("configMapRef") or source["secretRef"]
        content = data(kind, reference["name"])
        if content is None and not reference.get("optional"):
            raise BadSpec(f"there is no {kind} {reference['name']}")
        for key, value in (content or {}).items():
            found[source.get("prefix", "") + key] = value
    for item in container.get("env") or ():
        given = _value(item, pod, data)
        if given is not None:
            found[item["name"]] = expanded(given, found) if "value" in item else given
    return found


def _value(
    item: Object, pod: Object, data: Callable[[str, str], Mapping[str, str] | None]
) -> str | None:
    source = item.get("valueFrom") or {}
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for word, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if word in source:
            reference = source[word]
            content = data(kind, reference["name"]) or {}
            if reference["key"] in content:
                return content[reference["key"]]
            if reference.get("optional"):
                return None
            raise BadSpec(f"there is no key {reference['key']} in {kind} {reference['name']}")
    return str(item.get("value", ""))


def identity(container: Object, pod: Object, of_image: int) -> Identity:
    """The user and the groups of a container.

    Raises:
        BadSpec: it would be root, and `runAsNonRoot` forbids that.
    """
    general = pod["spec"].get("securityContext") or {}
    context = {**general, **(container.get("securityContext") or {})}
    user = int(context.get("runAsUser", of_image))
    if user == 0 and context.get("runAsNonRoot"):
        raise BadSpec("container has runAsNonRoot and image will run as root")
    extra = [*general.get("supplementalGroups", ())]
    if "fsGroup" in general:
        extra.append(general["fsGroup"])
    # As of an image that says USER 65532:65532.
    group = int(context.get("runAsGroup", user if "runAsUser" not in context else 0))
    return Identity(user, group, tuple(map(int, extra)))


def port(container: Object, given: int | str) -> int:
    """The number of a port that a probe or hook names.

    Raises:
        BadSpec: the container has no such port.
    """
    if isinstance(given, int) or given.isdigit():
        return int(given)
    for item in container.get("ports") or ():
        if item.get("name") == given:
            return int(item["containerPort"])
    raise BadSpec(f"container {container['name']} has no port {given}")
