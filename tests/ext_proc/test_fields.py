"""The list of a picker's fields is whole, and ours are Envoy's."""

from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.service.ext_proc.v3 as envoy

from epp_client.ext_proc.fields import FIELDS
from epp_client.ext_proc.pb import ext_proc_pb2
from epp_client.pool.settings import STEERING_HEADERS

MESSAGES: tuple[Any, ...] = (
    envoy.ProcessingResponse,
    envoy.HeadersResponse,
    envoy.BodyResponse,
    envoy.TrailersResponse,
    envoy.CommonResponse,
    envoy.BodyMutation,
    envoy.StreamedBodyResponse,
    envoy.HeaderMutation,
    core.HeaderValueOption,
    core.HeaderValue,
    envoy.ImmediateResponse,
    envoy.StreamedImmediateResponse,
)


def numbers(message: Any) -> dict[str, int]:
    """The field numbers of one of Envoy's messages."""
    fields = message.__dataclass_fields__
    return {name: fields[name].metadata["betterproto"].number for name in fields}


def test_every_field_that_a_picker_can_say_is_listed() -> None:
    theirs = {f"{message.__name__}.{name}" for message in MESSAGES for name in numbers(message)}
    assert sorted(row.field for row in FIELDS) == sorted(theirs)


def test_our_fields_have_envoys_numbers() -> None:
    for message in MESSAGES:
        ours = ext_proc_pb2.DESCRIPTOR.message_types_by_name[message.__name__].fields
        assert {field.name: field.number for field in ours} == numbers(message)


def test_the_page_shows_the_headers_that_are_stripped() -> None:
    page = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
    for name in STEERING_HEADERS:
        assert f"`{name}`" in page
