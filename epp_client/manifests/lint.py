"""Finds the problems of manifests, and the pools that `serve` would read, for `epp-client check`."""

from collections.abc import Iterable
from pathlib import Path

from epp_client.files import Read, read_file
from epp_client.gateway.resolve import resolve_gateway
from epp_client.manifests.files import load
from epp_client.manifests.world import Loaded, contents_of, placed
from epp_client.pool.findings import Findings
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.resolve import resolve
from epp_client.pool.settings import PoolSettings


def lint(
    paths: Iterable[Path], defaults: PoolSettings, *, live: bool = False, read: Read = read_file
) -> Findings:
    """Check the manifests of all `paths` together; `-` is standard input.
    `live`: treat them as the whole cluster, like `serve --pools`. A pool without an endpoint or without an
    address of its picker is then an error, otherwise a warning.
    """
    loads = [load(path, read) for path in paths]
    loaded = Loaded(
        {name: found for one in loads for name, found in one.objects.items()},
        tuple(dict.fromkeys(problem for one in loads for problem in one.problems)),
    )
    contents = contents_of(loaded, defaults, {})
    world = contents.world
    problems = [*loaded.problems, *contents.problems]
    resolution = resolve(world, None, 0.0)
    doubts = list(resolution.problems)
    for name, snapshot in resolution.snapshots.items():
        if not snapshot.table.ready:
            selected = any(
                pod.namespace == name.namespace and pod.has(snapshot.pool.match_labels)
                for pod in world.pods
            )
            text = "selects no ready endpoint" if selected else "selects no Pod"
            text += " in these manifests"
            place = "spec.selector.matchLabels"
            doubts.append(Problem(Severity.WARNING, text, f"InferencePool {name}", place))
    if live:
        pools = {f"InferencePool {name}" for name in world.pools}
        doubts = [
            doubt._replace(severity=Severity.ERROR) if doubt.subject in pools else doubt
            for doubt in doubts
        ]
    gateways = [resolve_gateway(one, None) for one in contents.gateways.values()]
    doubts += dict.fromkeys(problem for found in gateways for problem in found.problems)
    problems += placed(doubts, loaded)
    if not world.pools and not any(p.severity is Severity.ERROR for p in problems):
        where = ", ".join(loaded.objects) or "these paths"
        problems.append(Problem(Severity.ERROR, f"no InferencePool found in {where}"))
    others: dict[str, int] = {}
    if gateways:
        routes = sum(1 for found in gateways for _ in found.table.entries())
        others = {"Gateway": len(gateways), "route": routes}
    return Findings(tuple(problems), resolution.snapshots, others)
