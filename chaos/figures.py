"""The figures of docs/reliability.md, made from the JSON results of runs. Pure.

JSON values in, Markdown out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from chaos.account import Row

Values = dict[str, Any]
_COUNTS = ("sent", "answered", "refused", "lost as stated", "lost in breach")


def replaced(page: str, name: str, figures: str, *, command: str = "make figures") -> str:
    """Replace the figures of the page between the marks with this name and command.

    Raises:
        ValueError: the page has no such marks.
    """
    before, begin, rest = page.partition(f"<!-- {name}, by `{command}` -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not (begin and end):
        raise ValueError(f"the page has no marks for {name}")
    return f"{before}{begin}\n{figures}\n{end}{after}"


def chaos(runs: Sequence[Values]) -> str:
    """The sums of several runs of `make chaos`."""
    parts = [(name, _row(part["total"])) for run in runs for name, part in run["parts"].items()]
    faults: dict[str, Row] = {}
    for run in runs:
        for part in run["parts"].values():
            for name, values in part["faults"].items():
                faults.setdefault(name, Row(name)).add(_row(values))
    whole = Row("all")
    for _, row in parts:
        whole.add(row)
    summary = [[name, *_counts(row)] for name, row in [*parts, ("**all**", whole)]]
    by_fault = [[n, str(row.windows or ""), *_counts(row)] for n, row in sorted(faults.items())]
    return "\n\n".join(
        (
            "\n".join(f"- {_command(run)}: {_verdict(run)}" for run in runs),
            table(["part", *_COUNTS], summary),
            table(["fault", "times", *_COUNTS], by_fault),
        )
    )


def soak(run: Values) -> str:
    """The trends of a soak, and its plot."""
    [(name, part)] = run["parts"].items()
    total = _row(part["total"])
    minutes = run["settings"]["seconds"] / 60
    trends = [
        [what, f"{t['level']:.1f}", f"{t['growth']:+.1f}", f"{t['allowed']:.1f}", _flat(t)]
        for what, t in run["trends"].items()
    ]
    return "\n\n".join(
        (
            f"{minutes:g} minutes of {name}, {total.sent} requests: {total.answered} answered, "
            f"{total.refused.total()} refused with a reason, {total.lost} lost as stated, "
            f"{total.breaches} lost in breach. {_command(run)}: {_verdict(run)}.",
            table(["curve", "level", "growth", "allowed", ""], trends),
            "![Memory, descriptors and requests in flight](images/soak.png)",
        )
    )


def quiet(run: Values) -> str:
    """The results of each Envoy behind each sidecar, and the worst trends."""
    told, gateways = run["settings"], run["gateways"]
    sums = {
        name: sum(one[name] for one in gateways)
        for name in ("asked", "answered", "refused", "lost", "dead", "ADS cut", "relay cut")
    }
    head = list(gateways[0])
    growth = [
        [name, what, f"{t['growth']:+.1f}", f"{t['allowed']:.1f}", _flat(t)]
        for name, found in run["growth"].items()
        for what, t in found.items()
    ]
    return "\n\n".join(
        (
            f"`{told['command']}` (the machine's load {told['load']}): {told['seconds'] / 60:g} minutes, "
            f"{len(gateways)} Envoys behind {len(run['growth'])} sidecars, {sums['asked']} requests: "
            f"{sums['answered']} answered, {sums['refused']} refused with a reason, {sums['lost']} "
            f"lost; {sums['dead']} Envoys dead, "
            f"{sums['ADS cut']} ADS streams and {sums['relay cut']} connections to the relay cut: "
            f"{_verdict(run)}.",
            table(head, [[str(one[name]) for name in head] for one in gateways]),
            table(["sidecar", "the curve that grows most", "growth", "allowed", ""], growth),
        )
    )


def stopped(run: Values) -> str:
    """How long a stopped picker delayed requests."""
    head = ["transport", "p99 before", "longest", "normal after", "p99 after, picker still stopped"]
    rows = [
        [
            transport,
            f"{felt['p99_before'] * 1000:.0f} ms",
            f"{felt['longest']:.2f} s",
            f"{felt['until_normal']:.2f} s",
            f"{felt['p99_after'] * 1000:.0f} ms",
            f"{felt['waited']} of {felt['sent']}",
            str(felt["lost"]),
        ]
        for transport, felt in run["felt"].items()
    ]
    return table([*head, "waited", "lost"], rows)


def _row(values: Values) -> Row:
    return Row(**{**values, "refused": Counter(values["refused"])})


def _counts(row: Row) -> list[str]:
    numbers = (row.sent, row.answered, row.refused.total(), row.lost, row.breaches)
    return [str(number) for number in numbers]


def _command(run: Values) -> str:
    told = run["settings"]
    return (
        f"`{told['command']}` ({told['requests per second']:g} requests a second, pools from "
        f"{told['pools from']}, the machine's load {told['load']})"
    )


def _verdict(run: Values) -> str:
    return "the promise was kept" if run["kept"] else "**the promise was broken**"


def _flat(trend: Values) -> str:
    return "flat" if trend["growth"] <= trend["allowed"] else "**not flat**"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
