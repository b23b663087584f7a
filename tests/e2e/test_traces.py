"""Spans of ours and of Envoy, in one trace, at a collector that speaks OTLP."""

import asyncio

import httpx
import pytest
import yaml

from epp_client.envoy.edge import EDGE, Tracing
from testbed.stack import running_stack
from tests.e2e.spans import PARENT, SAMPLED, TRACE, attributes, running_collector
from tests.e2e.tools import echo


@pytest.mark.parametrize("workers", [0, 1])
async def test_envoys_span_is_the_parent_of_ours(workers: int) -> None:
    async with (
        running_collector() as collector,
        running_stack(
            otlp_endpoint=collector.http,
            workers=workers,
            edge=EDGE._replace(tracing=Tracing(collector.grpc)),
        ) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        answer = await echo(client, stack, "open", traceparent=SAMPLED)
        assert answer.status_code == 200
        # The model server gets the trace, in a span of Envoy.
        _, trace, _, _ = answer.json()["headers"]["traceparent"].split("-")
        assert trace == TRACE
        ours = await collector.has("epp-client", "inference exchange", "pick")
        await collector.has("envoy", "ingress")
        exchange, pick = ours["inference exchange"], ours["pick"]
        envoys = {span.span_id: span for span in collector.spans["envoy"]}
        assert exchange.trace_id.hex() == TRACE
        assert exchange.parent_span_id in envoys
        assert pick.parent_span_id == exchange.span_id
        said = attributes(exchange)
        assert said["inference.pool"] == "default/open"
        assert said["inference.outcome"] == "steered"
        assert said["inference.endpoint.served"] in stack.endpoints
        assert said["http.request.header.x-request-id"]
        assert [event.name for event in exchange.events] == ["judged"]
        assert exchange.start_time_unix_nano <= pick.start_time_unix_nano
        assert pick.end_time_unix_nano <= exchange.end_time_unix_nano
        # The same trace id is in the record of the request.
        admin = f"http://{stack.sidecar.admin_address}/decisions"
        async with asyncio.timeout(60):
            while not (found := (await client.get(admin)).json()["decisions"]):
                await asyncio.sleep(0.1)
        assert found[0]["trace_id"] == TRACE
        # And it is an exemplar of the pick's latency.
        scraped = await client.get(
            f"http://{stack.sidecar.admin_address}/metrics",
            headers={"accept": "application/openmetrics-text; version=1.0.0"},
        )
        [line] = [text for text in scraped.text.splitlines() if TRACE in text]
        assert line.startswith("epp_client_pick_seconds_bucket")
        assert 'pool="open"' in line


async def test_a_failure_is_an_error_and_an_unsampled_request_has_no_span() -> None:
    async with (
        running_collector() as collector,
        running_stack(otlp_endpoint=collector.http) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        await echo(client, stack, "open", traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
        await echo(client, stack, "open")
        refused = await echo(
            client,
            stack,
            "close",
            x_picker_dialect="pick-outside",
            traceparent=SAMPLED,
        )
        assert refused.status_code == 503
        spans = await collector.has("epp-client", "inference exchange")
        exchange = spans["inference exchange"]
        assert (exchange.status.code, exchange.status.message) == (2, "pick_outside_pool")
        assert exchange.parent_span_id.hex() == PARENT
        assert {span.trace_id.hex() for span in collector.spans["epp-client"]} == {TRACE}


@pytest.mark.parametrize("share", [0.0, 50.0, 100.0])
async def test_the_share_is_of_requests_whose_client_has_not_decided(share: float) -> None:
    edge = EDGE._replace(tracing=Tracing(("127.0.0.1", 9), share))
    async with (
        running_stack(workers=0, edge=edge) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):

        async def sampled(traceparent: str = "") -> bool:
            given = {"traceparent": traceparent} if traceparent else {}
            answer = await client.post(f"{stack.pool_url('open')}/echo", headers=given)
            return bool(answer.json()["headers"]["traceparent"].endswith("-01"))

        assert await sampled(SAMPLED)
        assert not await sampled(SAMPLED.removesuffix("1") + "0")
        undecided = [await sampled() for _ in range(40)]
        assert 0 < sum(undecided) < 40 if share == 50.0 else set(undecided) == {share == 100.0}


async def test_a_collector_that_is_away_costs_no_request() -> None:
    async with (
        running_stack(otlp_endpoint="http://127.0.0.1:9") as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        for _ in range(20):
            answer = await echo(client, stack, "open", traceparent=SAMPLED)
            assert answer.status_code == 200


def test_the_printed_bootstrap_has_the_collector() -> None:
    from typer.testing import CliRunner

    from epp_client.cli import app

    arguments = ["envoy-config", "--pool", "default/llama", "--otlp-grpc", "otel:4317"]
    done = CliRunner().invoke(app, [*arguments, "--trace-share", "5"])
    assert done.exit_code == 0, done.output
    printed = yaml.safe_load(done.output)
    names = [cluster["name"] for cluster in printed["static_resources"]["clusters"]]
    assert "otel-collector" in names
    [chain] = printed["static_resources"]["listeners"][0]["filter_chains"]
    provider = chain["filters"][0]["typed_config"]["tracing"]["provider"]
    parents = provider["typed_config"]["sampler"]["typed_config"]
    share = parents["wrapped_sampler"]["typed_config"]["sampling_percentage"]
    assert share == {"numerator": 50_000, "denominator": "MILLION"}
