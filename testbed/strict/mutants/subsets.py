"""A filter that makes the subset hint from a header, as operators add one with their gateway's extensions.
It is no fault: without it, nothing could be asked about hints."""

from typing import Any

import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as to_metadata
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
from envoy_data_plane.google.protobuf import Any as Packed

from epp_client.envoy import gateway_listeners
from epp_client.picker.protocol import SUBSET, SUBSET_NAMESPACE
from testbed.strict.mutants.registry import replace

SUBSET_HEADER = "x-strict-subset"
"""The header: a comma-separated list of `ip:port`."""


def make_subset_hints() -> None:
    """Add the filter to every listener of a Gateway in this process."""

    def make(original: Any) -> Any:
        def with_hints(*arguments: Any, **more: Any) -> Any:
            manager = original(*arguments, **more)
            manager.http_filters.insert(0, _filter())
            return manager

        return with_hints

    replace(gateway_listeners, "connection_manager", make)


def _filter() -> hcm_v3.HttpFilter:
    pair = to_metadata.ConfigKeyValuePair(metadata_namespace=SUBSET_NAMESPACE, key=SUBSET)
    rule = to_metadata.ConfigRule(header=SUBSET_HEADER, on_header_present=pair, remove=True)
    config = to_metadata.Config(request_rules=[rule])
    return hcm_v3.HttpFilter(
        name="envoy.filters.http.header_to_metadata", typed_config=Packed.pack(config)
    )
