"""Whose a Gateway is, by its GatewayClass. Pure."""

from enum import Enum

from epp_client.gateway.world import Object


class Standing(Enum):
    """What a Gateway is to us."""

    UNKNOWN = "unknown"
    """Not listed yet."""
    FOREIGN = "foreign"
    """There is none, or its GatewayClass is another implementation's, or we may not read them."""
    OURS = "ours"


def class_name(gateway: Object) -> str:
    """The name of the GatewayClass of a Gateway object."""
    return str((gateway.get("spec") or {}).get("gatewayClassName"))


def standing_by_class(
    gateway: Object, found: Object | None, answered: bool, controller: str, ours_by: str | None
) -> Standing:
    """What an existing Gateway is to us. `found` is its GatewayClass object, `answered` whether the API
    server has answered about it, `ours_by` the name of the class that made the Gateway ours before."""
    if found is not None:
        same = (found.get("spec") or {}).get("controllerName") == controller
        return Standing.OURS if same else Standing.FOREIGN
    if not answered:
        return Standing.UNKNOWN
    # A class that is deleted takes nothing away from its Gateways.
    return Standing.OURS if ours_by == class_name(gateway) else Standing.FOREIGN
