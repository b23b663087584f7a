"""Resolves the references of routes and listeners: to pools, Services and Secrets, across namespaces with a
ReferenceGrant alone. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError as PydanticError

from epp_client.gateway.shapes import GATEWAY_GROUP, BackendReference, GrantShape, SecretReference
from epp_client.gateway.statuses import RouteName
from epp_client.gateway.table import Certificate, SecretName, Service, ServicePort
from epp_client.gateway.world import GatewayWorld
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.problems import Severity
from epp_client.pool.service_addresses import Place, ready_addresses, service_port, tcp_ports

Object = Mapping[str, Any]

POOL_GROUP = "inference.networking.k8s.io"

_PROTOCOLS: Mapping[str, AppProtocol | None] = {
    "": AppProtocol.HTTP,
    "http": AppProtocol.HTTP,
    "kubernetes.io/ws": AppProtocol.HTTP,
    "kubernetes.io/h2c": AppProtocol.H2C,
    "grpc": AppProtocol.H2C,
    "kubernetes.io/wss": None,
    "https": None,
}
"""What `appProtocol` of a Service's port means. None: TLS to the backend, which is not supported."""


class Unresolved(NamedTuple):
    """Why a reference cannot be used."""

    reason: str
    """A reason of the condition ResolvedRefs."""
    text: str

    @property
    def severity(self) -> Severity:
        """ERROR if no other object can make it right."""
        never = self.reason in ("InvalidKind", "UnsupportedProtocol")
        return Severity.ERROR if never else Severity.WARNING


class _Grant(NamedTuple):
    """Permission of objects of a kind in a namespace to refer to objects of a kind in another one."""

    from_group: str
    from_kind: str
    from_namespace: str
    group: str
    kind: str
    namespace: str
    name: str
    """Empty: all."""


class Grants:
    """All ReferenceGrants."""

    def __init__(self, objects: Iterable[Object]) -> None:
        """Grants that cannot be read permit nothing."""
        self._grants: set[_Grant] = set()
        for data in objects:
            try:
                shape = GrantShape.model_validate(data)
            except PydanticError:
                continue
            for giver in shape.spec.from_:
                for to in shape.spec.to:
                    self._grants.add(
                        _Grant(
                            giver.group,
                            giver.kind,
                            giver.namespace,
                            to.group,
                            to.kind,
                            shape.metadata.namespace,
                            to.name,
                        )
                    )

    def permit(
        self, source_kind: str, source: str, group: str, kind: str, namespace: str, name: str
    ) -> bool:
        """Whether an object of `source_kind` (of the Gateway API) in the namespace `source` may refer to
        that object."""
        if source == namespace:
            return True
        grant = _Grant(GATEWAY_GROUP, source_kind, source, group, kind, namespace, name)
        return grant in self._grants or grant._replace(name="") in self._grants


class Backends:
    """Resolves backendRefs of HTTPRoutes against one world."""

    def __init__(self, world: GatewayWorld, grants: Grants) -> None:
        self._world = world
        self._grants = grants
        self._pools = frozenset(world.pools)
        self.services: dict[ServicePort, Service] = {}
        """The Services that were found so far."""
        self._wanted: set[Place] = set()
        self._used: set[ServicePort] = set()

    def asked(self) -> tuple[frozenset[Place], Mapping[ServicePort, Service]]:
        """What references have asked for since the last call: the Services that they permit, whether these
        exist or not, and those that were found."""
        wanted, used = frozenset(self._wanted), {port: self.services[port] for port in self._used}
        self._wanted, self._used = set(), set()
        return wanted, used

    def resolve(
        self, route: RouteName, reference: BackendReference
    ) -> PoolName | ServicePort | Unresolved:
        """What a backendRef of `route` refers to."""
        namespace = reference.namespace or route.namespace
        kind = (reference.group, reference.kind)
        if kind not in ((POOL_GROUP, "InferencePool"), ("", "Service")):
            text = f"{reference.group}/{reference.kind}" if reference.group else reference.kind
            return Unresolved(
                "InvalidKind", f"kind {text} is not supported; Service and InferencePool are"
            )
        name = f"{reference.kind} {namespace}/{reference.name}"
        if not self._grants.permit("HTTPRoute", route.namespace, *kind, namespace, reference.name):
            return Unresolved(
                "RefNotPermitted",
                f"{name} is in another namespace, and no ReferenceGrant there permits it",
            )
        if reference.kind == "InferencePool":
            pool = PoolName(namespace, reference.name)
            if pool in self._pools:
                return pool
            return Unresolved("BackendNotFound", f"{name} does not exist")
        return self._service(name, namespace, reference)

    def _service(
        self, name: str, namespace: str, reference: BackendReference
    ) -> ServicePort | Unresolved:
        place = (namespace, reference.name)
        self._wanted.add(place)
        service = self._world.services.get(place)
        if service is None:
            return Unresolved("BackendNotFound", f"{name} does not exist")
        if (service.get("spec") or {}).get("type") == "ExternalName":
            return Unresolved("InvalidKind", f"{name} is of type ExternalName, not supported")
        port = service_port(service, reference.port)
        if port is None or reference.port is None:
            known = ", ".join(str(p.get("port")) for p in tcp_ports(service)) or "none"
            text = f"{name} has no port {reference.port} for TCP; the ports are {known}"
            return Unresolved("BackendNotFound", text)
        said = str(port.get("appProtocol") or "")
        protocol = _PROTOCOLS.get(said, AppProtocol.HTTP)
        if protocol is None:
            return Unresolved(
                "UnsupportedProtocol", f"{name} port {reference.port}: appProtocol {said}"
            )
        target = ServicePort(namespace, reference.name, reference.port)
        if target not in self.services:
            slices = self._world.slices.get(place, ())
            pods = [pod for pod in self._world.pods if pod.namespace == namespace]
            addresses = sorted(ready_addresses(service, port, slices, pods))
            self.services[target] = Service(tuple(addresses), protocol)
        self._used.add(target)
        return target


class Certificates:
    """Resolves certificateRefs of listeners against one world."""

    def __init__(self, world: GatewayWorld, grants: Grants) -> None:
        self._world = world
        self._grants = grants
        self.found: dict[SecretName, Certificate] = {}
        """The certificates that can be used."""
        self.wanted: set[SecretName] = set()
        """The Secrets that references permit, whether they exist or not."""

    def resolve(self, gateway: str, reference: SecretReference) -> SecretName | Unresolved:
        """The Secret that a listener of a Gateway in the namespace `gateway` refers to."""
        if (reference.group, reference.kind) != ("", "Secret"):
            text = f"{reference.group}/{reference.kind}" if reference.group else reference.kind
            return Unresolved("InvalidCertificateRef", f"kind {text} is not supported; Secret is")
        secret = SecretName(reference.namespace or gateway, reference.name)
        if not self._grants.permit("Gateway", gateway, "", "Secret", *secret):
            return Unresolved(
                "RefNotPermitted",
                f"Secret {secret} is in another namespace, and no ReferenceGrant there permits it",
            )
        self.wanted.add(secret)
        found = self._world.secrets.get(secret)
        if found is None:
            return Unresolved("InvalidCertificateRef", f"Secret {secret} does not exist")
        if isinstance(found, str):
            return Unresolved("InvalidCertificateRef", f"Secret {secret}: {found}")
        self.found[secret] = found
        return secret
