"""`make chaos`, `soak`, `quiet` and `stopped`: run, show progress, write a report. The exit code is the
verdict."""

import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chaos.clock import clock_library
from chaos.installation import Installation
from chaos.promise import DRAIN
from chaos.report import describe, good, print_tables, write
from chaos.routed import RoutedInstallation
from chaos.run import Deck, Part, Tell, Told, known_faults, run_part
from chaos.source import SourceName
from epp_client.pool.settings import RequestMode
from epp_client.settings import TransportName, UpstreamMode
from testbed.deaths import deaths_noted

RESULTS = Path("build/chaos")
PAGE = Path("docs/reliability.md")
ENVOYS = Path("build/envoy")
"""Where `make quiet` installs other versions of Envoy."""
OUTCOMES = ("answered", "refused", "lost")
PROGRESS_INTERVAL = 60.0
"""Seconds between two lines of progress without a terminal."""
QUIET_OUTCOMES = ("under way", *OUTCOMES, "ADS cuts", "dead")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[counts]}"), console=console)


def _shown(
    shown: Progress, name: str, total: float, outcomes: tuple[str, ...] = OUTCOMES
) -> tuple[Told, Tell]:
    """The callbacks for the progress of a part, and for events."""
    task = shown.add_task(name, total=total, counts="starting")
    began, told = time.monotonic(), 0.0

    def progress(done: float, counts: Counter[str]) -> None:
        text = ", ".join(f"{counts[outcome]} {outcome}" for outcome in outcomes)
        shown.update(task, completed=done, counts=text)
        nonlocal told
        if not shown.console.is_terminal and done >= told + PROGRESS_INTERVAL:
            told = done
            shown.console.print(f"  {done:6.1f} s  {name}: {text}")

    def tell(text: str) -> None:
        shown.console.print(f"  {time.monotonic() - began:6.1f} s  {text}", style="dim")

    return progress, tell


async def _run(
    seconds: float,
    combinations: list[tuple[TransportName, UpstreamMode]],
    source: SourceName,
    hold: bool,
    seed: int,
    rate: float,
    names: list[str],
    request_mode: RequestMode,
    console: Console,
) -> list[Part]:
    dice = random.Random(seed)
    faults, skipped = known_faults()
    for why in skipped:
        console.print(f"SKIPPED {why}")
    deck = Deck(dice, [fault for fault in faults if not names or fault.name in names])
    made = RoutedInstallation if source is SourceName.GATEWAY else Installation
    share = seconds / len(combinations)
    parts: list[Part] = []
    with _progress(console) as shown:
        for transport, mode in combinations:
            progress, tell = _shown(shown, f"{transport}/{mode}", share)
            with tempfile.TemporaryDirectory(prefix="epp-client-chaos-") as folder:
                installation = made(
                    Path(folder),
                    transport,
                    mode,
                    source=source,
                    hold=hold,
                    seed=dice.getrandbits(32),
                    clock=clock_library(),
                    drain=DRAIN,
                    request_mode=request_mode,
                )
                parts.append(
                    await run_part(
                        installation, deck, dice, share, rate=rate, progress=progress, tell=tell
                    )
                )
    return parts


def _begin(seed: int) -> tuple[int, Console]:
    # grpcio logs complaints about child processes otherwise.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    seed = seed or random.SystemRandom().getrandbits(31)
    console = Console(width=None if os.isatty(1) else 150)
    console.print(f"SEED={seed}")
    return seed, console


def _settings(command: str, seed: int, seconds: float, **more: object) -> dict[str, object]:
    """The settings of a run for the report, with the machine's load at its beginning."""
    words = [command, f"DURATION={seconds:g}", f"SEED={seed}"]
    words += [f"{name.upper()}={value}" for name, value in more.items() if value is not None]
    return {
        "command": " ".join(words),
        "seed": seed,
        "seconds": seconds,
        "load": f"{os.getloadavg()[1]:.0f} on {os.cpu_count()} cores",
    }


def _end(parts: list[Part], console: Console, name: str, seed: int) -> NoReturn:
    print_tables(parts, console)
    for part in parts:
        for failure in part.failures:
            console.print(f"{part.name}: {failure}", style="red", markup=False)
        for breach in part.account.breaches:
            console.print(describe(part, breach), style="red", markup=False)
    kept = good(parts)
    verdict = f"the promise was {'kept' if kept else 'BROKEN'}; SEED={seed}"
    style = "green" if kept else "red"
    console.print(f"written to {RESULTS}/{name}.md; {verdict}", style=style)
    raise typer.Exit(0 if kept else 1)


@app.command()
def run(
    duration: Annotated[
        float, typer.Option(help="Seconds of load, divided among the parts.")
    ] = 600,
    transport: Annotated[TransportName | None, typer.Option(help="Only this transport.")] = None,
    mode: Annotated[UpstreamMode | None, typer.Option(help="Only this mode.")] = None,
    source: Annotated[SourceName, typer.Option(help="Source of the pools.")] = SourceName.API,
    hold: Annotated[bool, typer.Option(help="Hold the relay's sockets (native only).")] = True,
    seed: Annotated[int, typer.Option(help="Random seed; 0: a new one.")] = 0,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 40,
    fault: Annotated[list[str] | None, typer.Option(help="Only these faults.")] = None,
    request_mode: Annotated[
        RequestMode, typer.Option(help="What pickers get of requests.")
    ] = RequestMode.RELAY,
) -> None:
    """Inject faults at random moments under load; exit 1 if a request was lost in breach of the promise."""
    seed, console = _begin(seed)
    combinations = _combinations(transport, mode)
    routed = source is SourceName.GATEWAY
    shown = request_mode if request_mode is not RequestMode.RELAY else None
    said = {
        "source": source if routed else None,
        "transport": transport,
        "mode": mode,
        "request_mode": shown,
    }
    settings = _settings("make chaos", seed, duration, **said)
    settings |= {"pools from": source, "requests per second": rate}
    parts = uvloop.run(
        _run(duration, combinations, source, hold, seed, rate, fault or [], request_mode, console)
    )
    # The figures of the two forms are told apart by the beginning of these names.
    name = "-".join([source if routed else "chaos", *filter(None, (transport, mode, shown))])
    write(RESULTS, parts, settings, name)
    _end(parts, console, name, seed)


@app.command("soak")
def soak_(
    duration: Annotated[float, typer.Option(help="Seconds of load.")] = 1800,
    transport: Annotated[TransportName, typer.Option()] = TransportName.NATIVE,
    mode: Annotated[UpstreamMode, typer.Option()] = UpstreamMode.OVERRIDE_HOST,
    source: Annotated[SourceName, typer.Option(help="Source of the pools.")] = SourceName.API,
    seed: Annotated[int, typer.Option(help="Random seed; 0: a new one.")] = 0,
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 50,
) -> None:
    """Run load and gentle faults for long; exit 1 if memory or descriptors grow, or on a breach of the
    promise."""
    from chaos.curves import draw
    from chaos.samples import write_samples
    from chaos.soak import soak

    seed, console = _begin(seed)
    settings = _settings("make soak", seed, duration)
    settings |= {"pools from": source, "requests per second": rate}
    with _progress(console) as shown:
        progress, tell = _shown(shown, f"{transport}/{mode}", duration)
        part, curves = uvloop.run(
            soak(duration, transport, mode, source, seed, rate=rate, progress=progress, tell=tell)
        )
    trends = {name: found._asdict() for name, found in curves.trends.items()}
    write(RESULTS, [part], settings, "soak", trends=trends)
    write_samples(RESULTS / "soak.csv", curves)
    hours = f"{duration / 60:g} minutes, {len(part.lines)} requests, {part.name}"
    draw(RESULTS, curves, f"{hours}: a sidecar with 2 workers")
    for name, found in curves.trends.items():
        console.print(f"{name:28} {found.says}")
    _end([part], console, "soak", seed)


@app.command("quiet")
def quiet_(
    duration: Annotated[float, typer.Option(min=60, help="Seconds of the run.")] = 1800,
    transport: Annotated[TransportName | None, typer.Option(help="Only this one.")] = None,
    mode: Annotated[UpstreamMode | None, typer.Option(help="Only this one.")] = None,
    envoy: Annotated[list[str] | None, typer.Option(help="Only these versions.")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Runtime flags of Envoy: NAME=true or NAME=false.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed; 0: a new one.")] = 0,
) -> None:
    """Run few requests with responses of 60 to 600 s, idle pools and Envoys; exit 1 if anything fails."""
    from chaos import quiet_report
    from chaos.quiet import known_envoys, quiet

    seed, console = _begin(seed)
    settings = _settings("make quiet", seed, duration, runtime=" ".join(runtime or []) or None)
    envoys = {k: v for k, v in known_envoys(ENVOYS).items() if not envoy or k in envoy}
    console.print(f"Envoy {', '.join(envoys)}")
    flags = {
        name: value == "true" for name, _, value in (one.partition("=") for one in runtime or [])
    }
    combinations = _combinations(transport, mode)
    with _progress(console) as progress:

        def shown(name: str) -> tuple[Told, Tell]:
            return _shown(progress, name, duration, QUIET_OUTCOMES)

        stacks = uvloop.run(quiet(duration, combinations, envoys, flags, seed, shown))
    quiet_report.print_table(stacks, console)
    quiet_report.write(RESULTS, stacks, settings)
    for stack in stacks:
        for failure in stack.failures:
            console.print(f"{stack.name}: {failure}", style="red", markup=False)
    kept = all(stack.good for stack in stacks)
    console.print(
        f"written to {RESULTS}/quiet.md; the promise was {'kept' if kept else 'BROKEN'}; SEED={seed}",
        style="green" if kept else "red",
    )
    raise typer.Exit(0 if kept else 1)


def _combinations(
    transport: TransportName | None, mode: UpstreamMode | None
) -> list[tuple[TransportName, UpstreamMode]]:
    return [
        (one, other)
        for other, one in product(UpstreamMode, TransportName)
        if transport in (None, one) and mode in (None, other)
    ]


@app.command("stopped")
def stopped_() -> None:
    """Measure how long a stopped picker (SIGSTOP) delays requests under FailOpen; exit 1 if longer than
    promised."""
    from chaos.stopped import PICK_TIMEOUT, measure

    _, console = _begin(1)
    good_, results = True, {}
    for transport in TransportName:
        with deaths_noted() as deaths:
            felt = uvloop.run(measure(transport))
        for death in deaths:
            console.print(str(death), style="red", markup=False)
        good_ &= felt.within and not deaths
        results[transport] = asdict(felt)
        console.print(
            f"{transport}: pick timeout {PICK_TIMEOUT:g} s; p99 before {felt.p99_before * 1000:.0f} ms,"
            f" after {felt.p99_after * 1000:.0f} ms; normal {felt.until_normal:.2f} s after the first"
            f" request that waited; longest {felt.longest:.2f} s; {felt.waited} of {felt.sent} waited;"
            f" {felt.lost} lost: {'kept' if felt.within else 'BROKEN'}"
        )
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "stopped.json").write_text(json.dumps({"felt": results}, indent=1))
    raise typer.Exit(0 if good_ else 1)


@app.command("figures")
def figures_() -> None:
    """Write the results of the last runs into docs/reliability.md, with the plot."""
    from chaos import figures

    def read(paths: list[Path]) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    page = PAGE.read_text()
    if runs := read(sorted(RESULTS.glob("chaos*.json"))):
        page = figures.replaced(page, "chaos", figures.chaos(runs))
    if runs := read(sorted(RESULTS.glob("gateway*.json"))):
        page = figures.replaced(page, "gateway", figures.chaos(runs))
    for run in read([RESULTS / "stopped.json"]):
        page = figures.replaced(page, "stopped", figures.stopped(run))
    for run in read([RESULTS / "quiet.json"]):
        page = figures.replaced(page, "quiet", figures.quiet(run))
    for run in read([RESULTS / "soak.json"]):
        page = figures.replaced(page, "soak", figures.soak(run))
        shutil.copy(RESULTS / "soak.png", PAGE.parent / "images" / "soak.png")
    PAGE.write_text(page)


if __name__ == "__main__":
    app()
