"""docs/getting-started/existing-envoy.md: the four parts that it names are enough for another bootstrap."""

from typing import Any

import httpx

from testbed.stack import running_stack

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"


def as_somebody_elses(bootstrap: dict[str, Any]) -> None:
    """Keep the four parts, and this test's addresses. All else is what another Envoy has."""
    generated = bootstrap["static_resources"]
    [listener, *_] = generated["listeners"]
    connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
    pools = connections["route_config"]["virtual_hosts"][0]["routes"]
    [ext_proc] = [f for f in connections["http_filters"] if f["name"].endswith("ext_proc")]
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
        },
    }
    own_route = {
        "match": {"path": "/own"},
        "direct_response": {"status": 200, "body": {"inline_string": "mine"}},
    }
    own_connections = {
        "@type": f"{HCM}.HttpConnectionManager",
        "stat_prefix": "edge",
        "route_config": {
            "name": "edge",
            "virtual_hosts": [{"name": "edge", "domains": ["*"], "routes": [own_route, *pools]}],
            # Clusters of pools come over ADS.
            "validate_clusters": False,
        },
        "http_filters": [ext_proc, router],
    }
    own_listener = {
        "name": "edge",
        "address": listener["address"],
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": own_connections,
                    }
                ]
            }
        ],
    }
    kept = {key: bootstrap[key] for key in ("dynamic_resources", "admin")}
    bootstrap.clear()
    bootstrap.update(kept)
    bootstrap["node"] = {"id": "edge-1", "cluster": "edge"}
    bootstrap["static_resources"] = {
        "clusters": generated["clusters"],
        "listeners": [own_listener],
    }


async def test_four_parts_in_a_bootstrap_of_ones_own_steer() -> None:
    async with (
        running_stack(edit_bootstrap=as_somebody_elses) as stack,
        httpx.AsyncClient(timeout=20) as client,
    ):
        own = await client.get(f"{stack.url}/own")
        assert (own.status_code, own.text) == (200, "mine")
        for endpoint in stack.endpoints:
            steered = await client.post(
                f"{stack.pool_url('open')}/echo",
                headers={"test-epp-endpoint-selection": endpoint},
                content=b"hello",
            )
            assert steered.status_code == 200
            assert steered.headers["x-model-server"] == endpoint
        refused = await client.post(
            f"{stack.pool_url('close')}/echo",
            headers={"x-picker-dialect": "pick-outside"},
            content=b"hello",
        )
        assert refused.headers["x-inference-error"] == "pick_outside_pool"
