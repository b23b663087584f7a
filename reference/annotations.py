"""docs/reference/annotations.md: the settings of one pool."""

from enum import StrEnum

from pydantic.fields import FieldInfo

from epp_client.field_docs import field_docs
from epp_client.pool.settings import (
    ANNOTATION_PREFIX,
    STEERING_HEADERS,
    EvictionMode,
    PoolSettings,
    RequestMode,
    ResponseMode,
)
from epp_client.tls_settings import ClientTls, TlsMode
from reference.text import code, table, values_table

_HEAD = f"""\
# Annotations on an InferencePool

An annotation `{ANNOTATION_PREFIX}<name>` sets one setting for one pool. Without it the option of the same name of
`epp-client serve` counts ([command line](command-line.md)). A change holds for the next request. An annotation that cannot
be used is a warning in `/pools`, and the default counts.

Durations are `250ms`, `10s`, `2m` or a number of seconds. Sizes are `1048576`, `512Ki`, `16Mi` or `1Gi`.
[Which settings for which picker](../pickers.md) says what to set.

"""


def annotations() -> str:
    """Every annotation with its default."""
    rows = [
        [code(f"{ANNOTATION_PREFIX}{name}"), _default(field), meaning]
        for name, (field, meaning) in annotation_fields().items()
    ]
    values: list[tuple[str, type[StrEnum]]] = [
        ("request-mode", RequestMode),
        ("response-mode", ResponseMode),
        ("eviction", EvictionMode),
        ("tls", TlsMode),
    ]
    parts = [_HEAD + table(["annotation", "default", "meaning"], rows)]
    parts += [f"## Values of `{name}`\n\n{values_table(kind)}" for name, kind in values]
    names = "".join(f"- `{name}`\n" for name in STEERING_HEADERS)
    parts.append(f"## Default of `strip-headers`\n\n{names}")
    return "\n".join(parts)


def annotation_fields() -> dict[str, tuple[FieldInfo, str]]:
    """The field behind each annotation and its meaning, by the annotation's name without its prefix."""
    docs = field_docs(PoolSettings)
    found = {
        name.replace("_", "-"): (field, docs[name])
        for name, field in PoolSettings.model_fields.items()
        if name != "tls"
    }
    docs = field_docs(ClientTls)
    for name, field in ClientTls.model_fields.items():
        annotation = "tls" if name == "mode" else f"tls-{name.replace('_', '-')}"
        found[annotation] = (field, docs[name])
    return found


def _default(field: FieldInfo) -> str:
    value = field.default
    match value:
        case None:
            return ""
        case float():
            return code(f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms")
        case int():
            return code(f"{value // 2**20}Mi")
        case tuple():
            return f"{len(value)} names, below"
    return code(value)
