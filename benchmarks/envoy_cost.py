"""Where Envoy's microseconds go: one thing of its configuration changed at a time, side by side.

Each variant is a listener of the same Envoy, in front of the same compiled sidecar, picker and model
server; those with more worker threads have an Envoy of their own. `make bench-envoy` prints what Envoy and
the relay spend per request in each, and the difference to the configuration that `envoy-config` prints.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.listeners import HOST, admin_of, manager_of, printed
from benchmarks.processes import SidecarProcess, children
from benchmarks.rig import Rig, start_peers
from testbed.envoy import running_envoy
from testbed.ports import free_ports

Config = dict[str, Any]
console = Console(width=140, soft_wrap=True)


class Parts:
    """The parts of the configuration that a variant may change."""

    def __init__(self, listener: Config, cluster: Config) -> None:
        self.manager: Config = manager_of(listener)
        self.cluster = cluster

    @property
    def ext_proc(self) -> Config:
        """The filter's configuration."""
        found: Config = self.manager["http_filters"][0]["typed_config"]
        return found

    @property
    def routes(self) -> list[Config]:
        """All routes."""
        found: list[Config] = self.manager["route_config"]["virtual_hosts"][0]["routes"]
        return found

    @property
    def http2(self) -> Config:
        """HTTP/2 options of the connection to the sidecar."""
        [options] = self.cluster["typed_extension_protocol_options"].values()
        found: Config = options["explicit_http_config"]["http2_protocol_options"]
        return found

    def mode(self, **modes: str) -> None:
        """Change the processing mode."""
        self.ext_proc["processing_mode"].update(modes)


Change = Callable[[Parts], None]


def _without_ext_proc(parts: Parts) -> None:
    del parts.manager["http_filters"][0]
    for route in parts.routes:
        route.pop("typed_per_filter_config", None)
        route["route"]["cluster"] = "upstream"


def _without_retries(parts: Parts) -> None:
    for route in parts.routes:
        route["route"].pop("retry_policy", None)
        route.pop("request_body_buffer_limit", None)


def _one_route(parts: Parts) -> None:
    parts.routes[:] = [r for r in parts.routes if "with trailers" not in r["name"]]


def _static_upstream(parts: Parts) -> None:
    for route in parts.routes:
        route["route"]["cluster"] = "upstream"


def _skip(parts: Parts) -> None:
    parts.mode(response_body_mode="NONE", response_trailer_mode="SKIP")


def _headers(parts: Parts) -> None:
    parts.mode(request_body_mode="NONE", request_trailer_mode="SKIP")


def _headers_and_skip(parts: Parts) -> None:
    _headers(parts)
    _skip(parts)


def _no_response(parts: Parts) -> None:
    _skip(parts)
    parts.mode(response_header_mode="SKIP")


def _one_message(parts: Parts) -> None:
    _headers(parts)
    _no_response(parts)


def _without_path_rules(parts: Parts) -> None:
    for name in ("normalize_path", "merge_slashes", "use_remote_address"):
        parts.manager.pop(name, None)


def _access_log(parts: Parts) -> None:
    parts.manager["access_log"] = [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
                "log_format": {
                    "json_format": {
                        "time": "%START_TIME%",
                        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                        "status": "%RESPONSE_CODE%",
                        "served": "%DYNAMIC_METADATA(envoy.lb:x-gateway-destination-endpoint-served)%",
                        "upstream": "%UPSTREAM_HOST%",
                        "duration_ms": "%DURATION%",
                        "request_id": "%REQ(X-REQUEST-ID)%",
                    }
                },
            },
        }
    ]


def _drop(*path: str) -> Change:
    def change(parts: Parts) -> None:
        at = parts.ext_proc
        for name in path[:-1]:
            at = at[name]
        at.pop(path[-1], None)

    return change


def _predicate(parts: Parts) -> None:
    parts.ext_proc["grpc_service"]["retry_policy"].update(
        retry_host_predicate=[
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/"
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        host_selection_retry_max_attempts=5,
    )


def _retry(**changes: object) -> Change:
    """Change the retry policy of the ext_proc call; None removes a field."""

    def change(parts: Parts) -> None:
        policy = parts.ext_proc["grpc_service"]["retry_policy"]
        for name, value in changes.items():
            policy.pop(name, None)
            if value is not None:
                policy[name] = value

    return change


def _all(*changes: Change) -> Change:
    def change(parts: Parts) -> None:
        for one in changes:
            one(parts)

    return change


def _option(name: str, value: object) -> Change:
    def change(parts: Parts) -> None:
        parts.ext_proc[name] = value

    return change


def _windows(parts: Parts) -> None:
    parts.http2.update(
        initial_stream_window_size=1024 * 1024, initial_connection_window_size=16 * 1024 * 1024
    )


def _small_windows(parts: Parts) -> None:
    parts.http2.update(initial_stream_window_size=65535, initial_connection_window_size=1024 * 1024)


def _no_keepalive(parts: Parts) -> None:
    parts.http2.pop("connection_keepalive", None)


def _oghttp2(parts: Parts) -> None:
    parts.http2["use_oghttp2_codec"] = True


def _nghttp2(parts: Parts) -> None:
    parts.http2["use_oghttp2_codec"] = False


def _no_request_id(parts: Parts) -> None:
    parts.manager["generate_request_id"] = False


def _skip_envoy_headers(parts: Parts) -> None:
    parts.ext_proc["grpc_service"]["envoy_grpc"]["skip_envoy_headers"] = True


def _no_router_stats(parts: Parts) -> None:
    router = parts.manager["http_filters"][-1]["typed_config"]
    router.update(dynamic_stats=False, suppress_envoy_headers=True)


def _as_printed(_: Parts) -> None:
    """Nothing is changed."""


VARIANTS: dict[str, Change] = {
    "as printed": _as_printed,
    "without ext_proc": _without_ext_proc,
    "response-mode: skip": _skip,
    "response-mode: none": _no_response,
    "request-mode: headers": _headers,
    "request-mode: headers, response-mode: skip": _headers_and_skip,
    "request-mode: headers, response-mode: none": _one_message,
    "the attribute upstream.address": _option("response_attributes", ["upstream.address"]),
    "a retry on another host (several workers)": _predicate,
    "both of these": _all(_predicate, _option("response_attributes", ["upstream.address"])),
    "no metadata to the sidecar": _drop("metadata_options", "forwarding_namespaces"),
    "no retry of the ext_proc call": _drop("grpc_service", "retry_policy"),
    "smallest retry of the ext_proc call": _retry(
        retry_back_off=None, retry_on="reset", num_retries=None
    ),
    "headers, none, no retry of the ext_proc call": _all(
        _one_message, _drop("grpc_service", "retry_policy")
    ),
    "no retries, no kept body": _without_retries,
    "no twin route for trailers": _one_route,
    "no override_host (static upstream)": _static_upstream,
    "no keepalive pings": _no_keepalive,
    "windows of 1 and 16 MiB": _windows,
    "windows of 64 KiB and 1 MiB": _small_windows,
    "codec oghttp2": _oghttp2,
    "codec nghttp2": _nghttp2,
    "no path rules, no remote address": _without_path_rules,
    "no request id": _no_request_id,
    "no x-envoy headers to the sidecar": _skip_envoy_headers,
    "no x-envoy headers upstream": _no_router_stats,
    "access log": _access_log,
    "route cache retained": _option("route_cache_action", "RETAIN"),
    "content-length kept": _option("allow_content_length_header", True),
    "2 worker threads": _as_printed,
    "4 worker threads": _as_printed,
}
THREADS = {"2 worker threads": 2, "4 worker threads": 4}
"""Worker threads of the variants that have an Envoy of their own. The one of all others has one."""


def configuration(rig: Rig, socket: Path, xds: Path, endpoint: str, names: list[str]) -> Config:
    """A bootstrap with a listener, and a cluster for the sidecar, for each variant, which becomes a way of
    the rig."""
    ports = iter(free_ports(2 + len(names)))
    document, listener, template = printed(ports, socket, xds)
    static = document["static_resources"]
    static["clusters"].append(_plain_cluster(endpoint))
    for number, name in enumerate(names):
        own, cluster = deepcopy(listener), deepcopy(template)
        parts = Parts(own, cluster)
        own["name"] = cluster["name"] = cluster["load_assignment"]["cluster_name"] = name
        own["address"]["socket_address"]["port_value"] = port = next(ports)
        parts.manager["stat_prefix"] = f"variant-{number}"
        parts.ext_proc["grpc_service"]["envoy_grpc"]["cluster_name"] = name
        VARIANTS[name](parts)
        static["listeners"].append(own)
        static["clusters"].append(cluster)
        rig.ways[name] = f"{HOST}:{port}"
    return document


def _plain_cluster(endpoint: str) -> Config:
    ip, _, port = endpoint.rpartition(":")
    address = {"socket_address": {"address": ip, "port_value": int(port)}}
    return {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


async def measure(
    names: list[str], rounds: int, seconds: float, connections: int
) -> dict[str, list[dict[str, float]]]:
    """Microseconds of CPU per request of each process, by variant, one entry a round."""
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-bench-")))
        rig = Rig(folder=folder)
        endpoint, _ = await start_peers(owner, rig)
        xds = folder / "xds.sock"
        sidecar = await SidecarProcess.start(owner, folder, "native", xds)
        rig.pids |= {
            # All of them: one without requests takes next to nothing.
            "envoy": [],
            "relay": children(sidecar.process.pid),
            "control": [sidecar.process.pid],
        }
        for threads in sorted({THREADS.get(name, 1) for name in names}):
            own = [name for name in names if THREADS.get(name, 1) == threads]
            document = configuration(rig, sidecar.socket, xds, endpoint, own)
            envoy = await owner.enter_async_context(
                running_envoy(document, admin_of(document), concurrency=threads)
            )
            rig.pids["envoy"].append(envoy.process.pid)
        load: Config = {"connections": connections, "seconds": seconds}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        await asyncio.sleep(1)
        for name in names:
            await rig.load(name, **{**load, "seconds": 0.2})
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                result = await rig.load(name, **load)
                row = {of: cpu / result["units"] * 1e6 for of, cpu in result["cpu"].items()}
                row["path"] = row["envoy"] + row["relay"] + row["control"]
                row["rate"] = result["units"] / result["seconds"]
                found[name].append(row)
            console.print(f"[dim]round {number + 1} of {rounds}", highlight=False)
        return found


def show(found: dict[str, list[dict[str, float]]], title: str) -> None:
    """Print the medians, and the difference of each variant to the first, taken within each round."""
    names = list(found)
    table = Table("variant", "Envoy µs", "Δ Envoy", "relay µs", "path µs", "Δ path", title=title)
    base = found[names[0]]
    for name, rows in found.items():
        middle = {key: median(row[key] for row in rows) for key in rows[0]}
        delta = {
            key: median(row[key] - first[key] for row, first in zip(rows, base, strict=True))
            for key in ("envoy", "path")
        }
        table.add_row(
            name,
            f"{middle['envoy']:.1f}",
            f"{delta['envoy']:+.1f}",
            f"{middle['relay']:.1f}",
            f"{middle['path']:.1f}",
            f"{delta['path']:+.1f} ({100 * delta['path'] / median(r['path'] for r in base):+.0f} %)",
        )
    console.print(table)


def main(
    variants: Annotated[str, typer.Option(help="Words that a variant's name contains.")] = "",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of load, for each variant.")] = 1.0,
    connections: Annotated[str, typer.Option(help="Comma-separated.")] = "16,64",
    output: Annotated[Path | None, typer.Option(help="File for the figures, as JSON.")] = None,
) -> None:
    """Measure what each part of Envoy's configuration costs."""
    wanted = [word for word in variants.split(",") if word]
    names = [
        name
        for number, name in enumerate(VARIANTS)
        if not number or not wanted or any(word in name for word in wanted)
    ]
    everything = {}
    for number in map(int, connections.split(",")):
        found = asyncio.run(measure(names, rounds, seconds, number))
        show(found, f"{number} connections, POSTs of 640 bytes")
        everything[str(number)] = found
    if output is not None:
        output.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
