"""Traces: OpenTelemetry spans of requests whose trace is sampled, sent to a collector with OTLP over HTTP.

Spans are made when a request has ended, from the times that its session noted: the request itself pays
nothing. The parent decides about sampling: the span of Envoy's stream to us, or, if Envoy does not trace,
that of the client. The picker gets both contexts as Envoy sent them. llm-d's picker continues that of the
request's headers.

`pip install 'epp-client[otel]'` has what this module imports.
"""

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from time import monotonic

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode

from epp_client.data_plane.shared import Timings
from epp_client.ext_proc.identity import TRACE_PARENT, Identity, identify
from epp_client.metrics.decisions import failed
from epp_client.pool.endpoints import quotable
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome
from epp_client.time_of_day import unix_time
from epp_client.version import VERSION

EXPORT_TIMEOUT = 5.0
"""Seconds for one message to the collector."""
LAST_EXPORT = 3.0
"""Seconds for the spans that are left when the process ends."""
MAX_QUEUE = 2048
"""Spans that wait for the collector. More are dropped."""
_PATH = "/v1/traces"


class Traces:
    """The spans of one process."""

    def __init__(self, endpoint: str, exporter: SpanExporter | None = None) -> None:
        """`endpoint`: URL of the collector; the path is `/v1/traces` if it has none. `exporter`: in its
        place, for tests."""
        if exporter is None:
            bare = endpoint.rstrip("/")
            url = bare if bare.endswith(_PATH) else bare + _PATH
            exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT)
        resource = Resource.create({"service.name": "epp-client", "service.version": VERSION})
        self._provider = TracerProvider(
            resource=resource, sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE, max_export_batch_size=512)
        )
        self._tracer = self._provider.get_tracer("epp-client", VERSION)
        self._loop = asyncio.get_running_loop()

    def ended(
        self,
        pool: str,
        exchange: Exchange,
        metadata: Mapping[str, str],
        address: str,
        timings: Timings,
    ) -> None:
        """See `Spans`."""
        said = exchange.said
        identity = identify(said.headers, said.answer, metadata.get(TRACE_PARENT, ""))
        if not identity.sampled:
            return
        offset = unix_time() - monotonic()

        def at(moment: float) -> int:
            """Nanoseconds since 1970 of a moment of the monotonic clock."""
            return round((moment + offset) * 1e9)

        result = exchange.result
        outcome = result.outcome or Outcome.CANCELLED
        attributes: dict[str, str | int] = {
            "inference.pool": pool,
            "inference.outcome": str(outcome),
            "inference.reason": str(result.reason or ""),
            "inference.picker.address": address,
            "inference.picker.said": quotable(said.pick),
            "inference.endpoint.picked": result.keys[0] if result.keys else "",
            "inference.endpoint.served": result.endpoint or "",
            "inference.endpoint.failure": str(result.endpoint_failure or ""),
            "inference.replays": exchange.retries,
            "gen_ai.request.model": identity.model,
            "http.request.header.x-request-id": identity.request_id,
        }
        span = self._tracer.start_span(
            "inference exchange",
            context=trace.set_span_in_context(NonRecordingSpan(_parent(identity))),
            kind=SpanKind.SERVER,
            attributes={key: value for key, value in attributes.items() if value not in ("", 0)},
            start_time=at(timings.began),
        )
        if failed(outcome, result.reason, result.endpoint_failure):
            why = result.reason or result.endpoint_failure or outcome
            span.set_status(Status(StatusCode.ERROR, str(why)))
        within = trace.set_span_in_context(span)

        def child(name: str, since: float | None, until: float | None) -> None:
            """A step. It may overlap others: a picker may pick before the request has ended."""
            if since is not None and until is not None:
                step = self._tracer.start_span(
                    name, context=within, kind=SpanKind.CLIENT, start_time=at(min(since, until))
                )
                step.end(at(until))

        child("connect to the picker", timings.connecting, timings.asked)
        child("pick", timings.asked, timings.decided)
        if timings.decided is not None:
            judged = {"inference.reason": str(result.failure or result.reason or "")}
            span.add_event(
                "judged", judged if judged["inference.reason"] else None, at(timings.decided)
            )
        if exchange.retries:
            span.add_event("the picker was asked again", {"inference.replays": exchange.retries})
        span.end(at(timings.ended))

    async def close(self) -> None:
        """Send what is left, within `LAST_EXPORT`. A collector that hangs does not hold the process."""
        done, loop = asyncio.Event(), self._loop

        def last() -> None:
            self._provider.force_flush(round(1000 * LAST_EXPORT))
            # The loop may have been closed: nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=last, daemon=True).start()
        try:
            async with asyncio.timeout(LAST_EXPORT):
                await done.wait()
        except TimeoutError:
            return


def _parent(identity: Identity) -> SpanContext:
    return SpanContext(
        trace_id=int(identity.trace_id, 16),
        span_id=int(identity.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
