"""docs/reference/endpoints-file.schema.json: the JSON schema of files for `--endpoints`."""

import json
from typing import Any

from epp_client.endpoints.parse import FileShape


def endpoints_schema() -> str:
    """The schema as text."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FileShape.model_json_schema(),
        "title": "A file for epp-client --endpoints",
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
