"""docs/reference/gateway-parameters.md: what a ConfigMap may change of a Gateway's data plane."""

from epp_client.controller.parameters import Parameters
from epp_client.field_docs import field_docs
from reference.text import code, table

_HEAD = """\
# Parameters of a Gateway

Keys of a ConfigMap in the Gateway's namespace that `spec.infrastructure.parametersRef` names. Each value is YAML. With a key
that is not in this list, or a value that cannot be used, the Gateway gets `Accepted: False` with the reason
`InvalidParameters` and the key, and what runs stays as it is. [The controller](../controller.md#parameters) has an example.

"""


def parameters() -> str:
    """Every key with its default."""
    docs = field_docs(Parameters)
    rows = [
        [
            code(field.alias or str(field.validation_alias or _camel(name))),
            code(field.default) if isinstance(field.default, int | str) else "",
            docs[name],
        ]
        for name, field in Parameters.model_fields.items()
    ]
    return _HEAD + table(["key", "default", "meaning"], rows)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
