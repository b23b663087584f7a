"""Checks of the response phase: the picker sees what the model server answers."""

import json

from testbed.strict.checks.picking import LIST, STEER
from testbed.strict.checks.registry import check
from testbed.strict.site import Failed, Site
from testbed.strict.workloads import MODEL_PORT

SERVED = "x-conformance-test-served-endpoint"
"""lwepp and the simulated picker say here which endpoint served, as they were told. lwepp also asks echo
servers for it, so a model server answers here."""
_CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
_PATH = "/v1/chat/completions"


@check(
    "response-headers-seen",
    "The picker sees the response headers, and is told which endpoint served.",
    "gamma",
)
async def response_headers_seen(site: Site) -> None:
    """lwepp writes the endpoint and a mark of its own into the response."""
    host = "seen.example"
    async with site.made(site.route(host, "gamma")):
        await site.serves(host, {"200 gamma"}, 8, path=_PATH, body=_CHAT)
        for pod in await site.pods("gamma"):
            answer = await site.ask(host, _PATH, headers={STEER: pod.ip}, body=_CHAT)
            served, mark = answer.headers.get(SERVED), "x-went-into-resp-headers" in answer.headers
            if not mark or served != f"{pod.ip}:{MODEL_PORT}":
                text = f"served by {pod}: the picker's mark is {mark}, and it was told {served}"
                raise Failed(text)


@check(
    "response-body-seen",
    "The picker sees the response body, and its changes reach the client.",
    *("gamma", "simulated"),
)
async def response_body_seen(site: Site) -> None:
    """The picker translates a greeting."""
    host = "changed.example"
    pool = site.pool("changed", "gamma", "picker-simulated")
    async with site.made(pool, site.route(host, "changed")):
        first = f"{(await site.pods('gamma'))[0].ip}:{MODEL_PORT}"
        plain = {LIST: first}
        await site.serves(host, {"200 gamma"}, 4, path=_PATH, headers=plain, body=_CHAT)
        for _ in range(5):
            headers = {LIST: first, "x-picker-dialect": "pick-list,mutate"}
            answer = await site.ask(host, _PATH, headers=headers, body=_CHAT)
            if answer.headers.get("x-picker-response") != "yes":
                raise Failed(f"no header of the picker: {answer.said}")
            if b"Bonjour" not in answer.body:
                raise Failed(f"the body is not the picker's: {answer.body[:200]!r}")
