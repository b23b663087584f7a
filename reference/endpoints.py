"""docs/reference/endpoints-file.schema.json: the JSON schema of files for `--endpoints`."""

import json
from typing import Any

from epp_client.endpoints.parse import EndpointShape, FileShape, PoolShape
from epp_client.field_docs import field_docs


def endpoints_schema() -> str:
    """The schema as text."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FileShape.model_json_schema(),
        "title": "A file for epp-client --endpoints",
    }
    for shape in (FileShape, PoolShape, EndpointShape):
        written = schema if shape is FileShape else schema["$defs"][shape.__name__]
        for name, meaning in field_docs(shape).items():
            written["properties"][name]["description"] = meaning
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
