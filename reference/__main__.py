"""Writes every page of docs/reference anew, and what else is made of another file: the template of the
controller, the runbook of the admin page, and the copies of the alerts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from reference.annotations import annotations
from reference.answers import answer_fields
from reference.command_line import command_line
from reference.controller_template import TEMPLATE, controller_template
from reference.endpoints import endpoints_schema
from reference.exchange import exchange, picture
from reference.helm_values import helm_values
from reference.metrics import metrics
from reference.parameters import parameters
from reference.reasons import picker_states, reasons
from reference.rules import OF_CHART, OPERATOR, charts_rules, operators_rules
from reference.runbook import RUNBOOK, runbook

FOLDER: Final = Path(__file__).parents[1] / "docs" / "reference"
HEAD: Final = "<!-- Written by `make reference` from the code. Edit the docstrings there. -->\n\n"
HEAD_OF_RUNBOOK: Final = "<!-- Written by `make reference` from docs/runbook.md. -->\n"
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "command-line.md": command_line,
    "annotations.md": annotations,
    "metrics.md": metrics,
    "reasons.md": reasons,
    "picker-states.md": picker_states,
    "answer-fields.md": answer_fields,
    "exchange.md": exchange,
    "helm-values.md": helm_values,
    "gateway-parameters.md": parameters,
}
PICTURE: Final = FOLDER.parent / "images" / "exchange.svg"

SCHEMA: Final = FOLDER / "endpoints-file.schema.json"


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(HEAD + page())
    PICTURE.write_text(picture())
    SCHEMA.write_text(endpoints_schema())
    TEMPLATE.write_text(controller_template())
    OPERATOR.write_text(operators_rules())
    OF_CHART.write_text(charts_rules())
    RUNBOOK.write_text(HEAD_OF_RUNBOOK + runbook())


if __name__ == "__main__":
    main()
