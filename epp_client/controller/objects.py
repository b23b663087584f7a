"""Makes the objects that run a Gateway: of its spec, of what it refers to, and of the template. Pure.

The template is config/kubernetes/base with its sidecar, see `reference/controller_template.py`. Here is
only what differs from it.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from epp_client.controller.grants import RoleWanted, roles_of
from epp_client.controller.names import labels_of, object_name, selector_of
from epp_client.controller.parameters import Parameters
from epp_client.controller.ports import OwnPorts, listener_ports, own_ports
from epp_client.envoy.bootstrap import gateway_config
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import (
    AUTOSCALER,
    CONFIG_MAP,
    DEPLOYMENT,
    GATEWAY,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    SERVICE_ACCOUNT,
    Resource,
)
from epp_client.kubernetes.status.subjects import Subject
from epp_client.pool.service_addresses import Place

GATEWAY_ANNOTATION = "epp-client.dev/gateway"
"""`namespace/name` of the Gateway of an object."""
CONFIG_ANNOTATION = "epp-client.dev/config"
"""Digest of the ConfigMap of a Pod: with another one there is a rollout."""
OWNED = (
    *(SERVICE_ACCOUNT, ROLE, ROLE_BINDING, CONFIG_MAP, SERVICE),
    *(DEPLOYMENT, POD_DISRUPTION_BUDGET, AUTOSCALER),
)
"""Kinds of the objects, in the order in which they are applied: rights before who needs them."""
_SOCKETS = Path("/run/epp-client")
_UNPRIVILEGED = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
"""Lets Envoy, which is not root, listen at ports below 1024. A safe sysctl: the Pod Security Standard
`restricted` allows it."""


class Defaults(NamedTuple):
    """What a data plane has unless the parameters of its Gateway say otherwise."""

    image: str
    """Of the sidecar and the holder."""
    envoy_image: str
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class Template:
    """The content of template.yaml."""

    objects: Mapping[str, Object]
    """By kind."""
    drain: str
    """The script of Envoy's preStop."""


@dataclass(frozen=True, slots=True)
class Plane:
    """The data plane of one Gateway, as it is to be."""

    gateway: Object
    parameters: Parameters
    defaults: Defaults
    secrets: frozenset[SecretName] = frozenset()
    """Secrets that the listeners may refer to."""
    config_maps: frozenset[Place] = frozenset()
    """ConfigMaps that the Gateway refers to."""
    controller: str = ""
    """Name of the controller, if it is not the default of `serve`."""

    @property
    def name(self) -> GatewayName:
        """The Gateway's."""
        metadata = self.gateway["metadata"]
        return GatewayName(str(metadata["namespace"]), str(metadata["name"]))

    @property
    def replicas(self) -> int:
        """The number of Pods, or the smallest one."""
        given = self.parameters.replicas
        return self.defaults.replicas if given is None else given

    @property
    def gateway_class(self) -> str:
        """The name of its GatewayClass."""
        return str(self.gateway["spec"]["gatewayClassName"])

    @property
    def objects_name(self) -> str:
        """The name of the objects in the Gateway's namespace."""
        return object_name(self.name.name, self.gateway_class)


def objects_of(plane: Plane, template: Template) -> dict[Subject, Object]:
    """All objects of a Gateway, in the order in which they are applied."""
    made: dict[Subject, Object] = {}
    for resource, data in _made(plane, template):
        metadata = data["metadata"]
        subject = Subject(resource, metadata["namespace"], metadata["name"])
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        made[subject] = {**head, **{k: v for k, v in data.items() if k not in head}}
    return dict(sorted(made.items(), key=lambda item: OWNED.index(item[0].resource)))


def _made(plane: Plane, template: Template) -> Iterator[tuple[Resource, dict[str, Any]]]:
    taken = listener_ports(plane.gateway)
    ports = own_ports(taken)
    config = _config_map(plane, template, ports)
    yield CONFIG_MAP, config
    yield SERVICE_ACCOUNT, _of(template, SERVICE_ACCOUNT, plane)
    wanted = RoleWanted(plane.name, plane.gateway_class, plane.secrets, plane.config_maps)
    for resource, data in roles_of(wanted):
        own = data["metadata"]["namespace"] == plane.name.namespace
        yield resource, {**data, "metadata": _metadata(plane, data["metadata"], own=own)}
    if taken:
        yield SERVICE, _service(plane, template, taken)
    yield DEPLOYMENT, _deployment(plane, template, config, ports)
    budget = _of(template, POD_DISRUPTION_BUDGET, plane)
    budget["spec"]["selector"]["matchLabels"] = dict(selector_of(plane.name))
    yield POD_DISRUPTION_BUDGET, budget
    if plane.parameters.max_replicas is not None:
        yield AUTOSCALER, _autoscaler(plane, template, plane.parameters.max_replicas)


def _metadata(plane: Plane, given: Mapping[str, Any], *, own: bool = True) -> dict[str, Any]:
    """Metadata with labels, annotations and the owner. An object in another namespace cannot have the
    Gateway as its owner: the controller deletes it."""
    infrastructure = (plane.gateway.get("spec") or {}).get("infrastructure") or {}
    found: dict[str, Any] = {
        "name": given["name"],
        "namespace": given["namespace"],
        "labels": {
            **(infrastructure.get("labels") or {}),
            **labels_of(plane.name, plane.gateway_class),
        },
        "annotations": {
            **(infrastructure.get("annotations") or {}),
            GATEWAY_ANNOTATION: str(plane.name),
        },
    }
    if own:
        found["ownerReferences"] = [
            {
                "apiVersion": GATEWAY.api_version,
                "kind": GATEWAY.kind,
                "name": plane.name.name,
                "uid": plane.gateway["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return found


def _of(template: Template, resource: Resource, plane: Plane) -> dict[str, Any]:
    """An object of the template under the Gateway's name."""
    data: dict[str, Any] = deepcopy(dict(template.objects[resource.kind]))
    place = {"name": plane.objects_name, "namespace": plane.name.namespace}
    data["metadata"] = _metadata(plane, place)
    return data


def _config_map(plane: Plane, template: Template, ports: OwnPorts) -> dict[str, Any]:
    place = {"name": plane.objects_name, "namespace": plane.name.namespace}
    return {
        "metadata": _metadata(plane, place),
        "data": {"envoy.yaml": bootstrap(ports), "drain.sh": template.drain},
    }


@cache
def bootstrap(ports: OwnPorts) -> str:
    """Envoy's bootstrap. The first one takes up to a second."""
    return gateway_config(
        admin=("127.0.0.1", ports.envoy_admin),
        status=("0.0.0.0", ports.envoy_status),
        ext_proc_sockets=[_SOCKETS / "ext-proc.sock"],
        ads_socket=_SOCKETS / "xds.sock",
    )


def _service(plane: Plane, template: Template, taken: list[int]) -> dict[str, Any]:
    service = _of(template, SERVICE, plane)
    parameters = plane.parameters
    spec = {
        "type": parameters.service_type,
        "selector": dict(selector_of(plane.name)),
        "ports": [
            {"name": f"port-{port}", "port": port, "targetPort": port, "protocol": "TCP"}
            for port in taken
        ],
        "loadBalancerClass": parameters.load_balancer_class,
        "externalTrafficPolicy": parameters.external_traffic_policy,
    }
    service["spec"] = {key: value for key, value in spec.items() if value is not None}
    return service


def _deployment(
    plane: Plane, template: Template, config: Mapping[str, Any], ports: OwnPorts
) -> dict[str, Any]:
    deployment = _of(template, DEPLOYMENT, plane)
    parameters = plane.parameters
    spec = deployment["spec"]
    if parameters.max_replicas is None:
        spec["replicas"] = plane.replicas
    spec["selector"]["matchLabels"] = dict(selector_of(plane.name))
    metadata = deployment["metadata"]
    content = "\0".join(config["data"].values())
    pod = spec["template"]
    pod["metadata"] = {
        "labels": dict(metadata["labels"]),
        "annotations": {
            **metadata["annotations"],
            CONFIG_ANNOTATION: sha256(content.encode()).hexdigest()[:16],
        },
    }
    of_pod = pod["spec"]
    of_pod["serviceAccountName"] = plane.objects_name
    of_pod["securityContext"]["sysctls"] = [_UNPRIVILEGED]
    for constraint in of_pod["topologySpreadConstraints"]:
        constraint["labelSelector"]["matchLabels"] = dict(selector_of(plane.name))
    for volume in of_pod["volumes"]:
        if volume["name"] == "envoy":
            volume["configMap"]["name"] = config["metadata"]["name"]
    _placed(of_pod, parameters)
    for container in of_pod["initContainers"]:
        container["image"] = parameters.image or plane.defaults.image
        if container["name"] == "epp-client":
            _sidecar(container, plane, ports)
    (envoy,) = of_pod["containers"]
    _envoy(envoy, plane, ports)
    return deployment


def _placed(of_pod: dict[str, Any], parameters: Parameters) -> None:
    """Where the Pods run."""
    more = {
        "nodeSelector": dict(parameters.node_selector),
        "tolerations": [one.written() for one in parameters.tolerations],
        "priorityClassName": parameters.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in parameters.image_pull_secrets],
    }
    of_pod.update({key: value for key, value in more.items() if value})


def _sidecar(container: dict[str, Any], plane: Plane, ports: OwnPorts) -> None:
    kept = ("--drain-timeout", "--hold", "--last-known", "--max-retained-total")
    given = {argument.partition("=")[0] for argument in plane.parameters.serve_args}
    container["args"] = [
        "serve",
        "--kubernetes",
        f"--gateway=$(NAMESPACE)/{plane.name.name}",
        *([f"--controller-name={plane.controller}"] if plane.controller else []),
        # The controller writes the status, so the sidecar needs no right to write.
        "--no-status",
        f"--admin=0.0.0.0:{ports.sidecar_admin}",
        *(
            argument
            for argument in container["args"]
            if (name := argument.partition("=")[0]) in kept and name not in given
        ),
        *plane.parameters.serve_args,
    ]
    for port in container["ports"]:
        port["containerPort"] = ports.sidecar_admin
    _resources(container, plane.parameters.sidecar_resources.written())


def _envoy(container: dict[str, Any], plane: Plane, ports: OwnPorts) -> None:
    parameters = plane.parameters
    container["image"] = parameters.envoy_image or plane.defaults.envoy_image
    # Ports of listeners are not declared: another listener would be another Pod template, and a rollout.
    container["ports"] = [{"name": "envoy-status", "containerPort": ports.envoy_status}]
    if parameters.envoy_concurrency is not None:
        at = container["args"].index("--concurrency")
        container["args"][at + 1] = str(parameters.envoy_concurrency)
    container["lifecycle"]["preStop"]["exec"]["command"].append(str(ports.envoy_admin))
    _resources(container, parameters.envoy_resources.written())


def _resources(container: dict[str, Any], more: Mapping[str, Mapping[str, str]]) -> None:
    resources = container["resources"]
    for kind, values in more.items():
        resources[kind] = {**resources.get(kind, {}), **values}


def _autoscaler(plane: Plane, template: Template, most: int) -> dict[str, Any]:
    autoscaler = _of(template, AUTOSCALER, plane)
    spec = autoscaler["spec"]
    spec["scaleTargetRef"]["name"] = plane.objects_name
    spec["minReplicas"], spec["maxReplicas"] = min(max(1, plane.replicas), most), most
    return autoscaler


def read_template(text: str) -> Template:
    """The template of the text of template.yaml."""
    found = yaml.safe_load(text)
    return Template(found["objects"], found["drain"])
