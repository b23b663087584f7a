"""The rights of a Gateway's data plane: what it may read beside what `READERS` lets all of them read. Pure.

No data plane may read a Secret that no listener of its Gateway names.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from epp_client.controller.names import READERS, foreign_name, object_name
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import (
    CLUSTER_ROLE_BINDING,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    Resource,
)
from epp_client.pool.service_addresses import Place

_GROUP = ROLE.group
_VERBS = ["list", "watch"]
"""Of one name: RBAC allows a list and a watch whose field selector has it."""


class RoleWanted(NamedTuple):
    """What a data plane reads by name."""

    gateway: GatewayName
    gateway_class: str
    secrets: frozenset[SecretName]
    config_maps: frozenset[Place]


class Account(NamedTuple):
    """The ServiceAccount of a data plane."""

    namespace: str
    name: str

    def subject(self) -> dict[str, str]:
        """It as a subject of a binding."""
        return {
            "kind": SERVICE_ACCOUNT.kind,
            "name": self.name,
            "namespace": self.namespace,
        }


def roles_of(wanted: RoleWanted) -> Iterator[tuple[Resource, dict[str, Any]]]:
    """A Role and a RoleBinding for each namespace with something to read, without labels."""
    account = Account(
        wanted.gateway.namespace, object_name(wanted.gateway.name, wanted.gateway_class)
    )
    secrets: dict[str, list[str]] = {}
    for secret in sorted(wanted.secrets):
        secrets.setdefault(secret.namespace, []).append(secret.name)
    config_maps: dict[str, list[str]] = {}
    for namespace, name in sorted(wanted.config_maps):
        config_maps.setdefault(namespace, []).append(name)
    for namespace in sorted({*secrets, *config_maps}):
        own = namespace == wanted.gateway.namespace
        name = account.name if own else foreign_name(wanted.gateway, wanted.gateway_class)
        place = {"namespace": namespace, "name": name}
        rules = [
            {"apiGroups": [""], "resources": [plural], "resourceNames": names, "verbs": _VERBS}
            for plural, names in (
                ("secrets", secrets.get(namespace)),
                ("configmaps", config_maps.get(namespace)),
            )
            if names
        ]
        yield ROLE, {"metadata": place, "rules": rules}
        reference = {"apiGroup": _GROUP, "kind": ROLE.kind, "name": name}
        yield (
            ROLE_BINDING,
            {"metadata": place, "roleRef": reference, "subjects": [account.subject()]},
        )


def readers_binding(accounts: Iterable[Account]) -> Object:
    """The ClusterRoleBinding that lets these data planes read what all of them read. It exists already: the
    controller may change its subjects and no other binding of the cluster."""
    return {
        "apiVersion": CLUSTER_ROLE_BINDING.api_version,
        "kind": CLUSTER_ROLE_BINDING.kind,
        "metadata": {"name": READERS},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": READERS},
        "subjects": [account.subject() for account in sorted(set(accounts))],
    }
