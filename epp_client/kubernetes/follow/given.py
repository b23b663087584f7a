"""A pool that options describe, in the place of the InferencePools of a cluster. Pure."""

from epp_client.option_values import host_port, is_service
from epp_client.pool.inference_pool import EndpointPickerRef, InferencePool, PoolName
from epp_client.pool.picker_host import host_ref
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings


def given_pool(
    settings: EndpointSettings, defaults: PoolSettings, own_namespace: str | None
) -> InferencePool:
    """The pool of `--endpoint-selector` and the options beside it. `own_namespace` is that of our Pod; None
    outside a cluster."""
    assert settings.endpoint_selector is not None
    namespace, _, name = settings.pool_name.partition("/")
    if "pool_name" not in settings.model_fields_set:
        namespace = own_namespace or namespace
    return InferencePool(
        name=PoolName(namespace, name),
        match_labels=(),
        target_ports=settings.endpoint_target_ports,
        app_protocol=settings.app_protocol,
        picker=_picker_ref(settings),
        settings=defaults,
        selector=settings.endpoint_selector,
    )


def _picker_ref(settings: EndpointSettings) -> EndpointPickerRef | None:
    if settings.picker is None:
        return None
    host, port = host_port(settings.picker)
    if not is_service(settings.picker):
        return host_ref(host, port, settings.failure_mode)
    namespace, _, name = host.partition("/")
    return EndpointPickerRef(name, port, settings.failure_mode, namespace=namespace)
