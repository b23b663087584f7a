"""What a ConfigMap of `infrastructure.parametersRef` may change of a Gateway's data plane. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

_OWN_ARGUMENTS = (
    *("--kubernetes", "--gateway", "--no-status", "--admin", "--hold", "--socket"),
    *("--xds-socket", "--workers", "--kubeconfig", "--context", "--controller-name"),
)
"""Arguments of `serve` that the Deployment depends on."""
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
Quantity = Annotated[str, Field(pattern=_QUANTITY)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9./_-]+$", max_length=317)]

MAX_REPLICAS = 1000
MAX_PROBLEM = 1000
"""Characters of the text about a ConfigMap."""


class Resources(BaseModel):
    """Resources of a container."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    requests: dict[Name, Quantity] | None = None
    limits: dict[Name, Quantity] | None = None

    def written(self) -> dict[str, dict[str, str]]:
        """It as a container has it."""
        return self.model_dump(exclude_none=True)


class Toleration(BaseModel):
    """A toleration of the Pods."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=AliasGenerator(validation_alias=to_camel)
    )

    key: Name | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    def written(self) -> dict[str, JsonValue]:
        """It as a Pod has it."""
        found = self.model_dump(exclude_none=True)
        return {to_camel(name): value for name, value in found.items()}


class Parameters(BaseModel):
    """The keys of the ConfigMap. Each value is YAML."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        alias_generator=AliasGenerator(validation_alias=to_camel),
    )

    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    """Number of Pods; with `maxReplicas` the smallest. Default: `--replicas` of the controller, 2."""
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] | None = None
    """Largest number of Pods of a HorizontalPodAutoscaler. Default: there is none."""
    service_type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    """Type of the Service."""
    load_balancer_class: Name | None = None
    """`loadBalancerClass` of the Service."""
    external_traffic_policy: Literal["Cluster", "Local"] | None = None
    """`externalTrafficPolicy` of the Service. `Local` keeps the addresses of clients."""
    image: Annotated[str, Field(min_length=1)] | None = None
    """Image of the sidecar and the holder. Default: that of the controller's options."""
    envoy_image: Annotated[str, Field(min_length=1)] | None = None
    """Image of Envoy. Default: that of the controller's options."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Names of Secrets with which the kubelet pulls the images."""
    envoy_concurrency: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of Envoy."""
    envoy_resources: Resources = Resources()
    """Resources of the container `envoy`, merged into those of config/kubernetes."""
    sidecar_resources: Resources = Resources()
    """Resources of the container `epp-client`, merged likewise."""
    serve_args: tuple[str, ...] = ()
    """More arguments of `epp-client serve`."""
    node_selector: dict[str, str] = {}
    """Node selector of the Pods."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations of the Pods."""
    priority_class_name: Name | None = None
    """Priority class of the Pods."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < max(1, self.replicas or 1):
            raise ValueError(f"maxReplicas: {self.max_replicas} is less than replicas")
        if self.service_type == "ClusterIP" and self.external_traffic_policy is not None:
            raise ValueError("externalTrafficPolicy: needs serviceType LoadBalancer or NodePort")
        if self.service_type != "LoadBalancer" and self.load_balancer_class is not None:
            raise ValueError("loadBalancerClass: needs serviceType LoadBalancer")
        for argument in self.serve_args:
            if argument.partition("=")[0] in _OWN_ARGUMENTS:
                raise ValueError(
                    f"serveArgs: {argument.partition('=')[0]} is set by the controller"
                )
            if not argument.startswith("--"):
                raise ValueError(f"serveArgs: {argument!r} is no option; write --name=value")
        return self


DEFAULTS = Parameters()


def read_parameters(data: Mapping[str, Any]) -> Parameters | str:
    """The parameters in a ConfigMap object, or what is wrong with it, with the key."""
    found: dict[str, JsonValue] = {}
    for key, text in (data.get("data") or {}).items():
        try:
            found[str(key)] = yaml.safe_load(str(text))
        except yaml.YAMLError:
            return f"data.{key}: is not YAML"
    try:
        return Parameters.model_validate(found)
    except ValidationError as error:
        said = "; ".join(
            f"data.{'.'.join(map(str, item['loc']))}: {item['msg']}"
            if item["loc"]
            else f"data.{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        return said[:MAX_PROBLEM]
