"""docs/reference/answer-fields.md: every field of a picker's answer."""

from epp_client.ext_proc.fields import FIELDS, Treatment
from reference.text import code, table, values_table

_HEAD = """\
# Fields of a picker's answer

What becomes of each field of Envoy's `ProcessingResponse` when a picker sets it. [What becomes of a picker's answer](../answers.md)
explains why. Each row has a test that asks Envoy alone and Envoy with epp-client (`tests/e2e/test_answers.py`).

"""


def answer_fields() -> str:
    """Every field, and the treatments."""
    rows = [[code(row.field), code(row.treatment), row.what] for row in FIELDS]
    return "\n".join(
        (
            _HEAD + table(["field", "treatment", "notes"], rows),
            f"## Treatments\n\n{values_table(Treatment, 'treatment')}",
            "What was left out is counted in `epp_client_answers_left_out_total`, by "
            "[`what`](metrics.md#what-of-epp_client_answers_left_out_total). A warning "
            "`left out of a picker's answer` names the first.\n",
        )
    )
