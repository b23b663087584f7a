"""A double of an API server in this process: list and watch like a kube-apiserver's, and faults on demand.

Here are paths, verbs, watches, tokens and RBAC; the rules about objects are in `objects`. The same tests
also run against a real server (see `conftest`), which checks the double.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from aiohttp import web

from epp_client.kubernetes.client.resources import Resource
from testbed.kubernetes.objects import Change, Key, Objects, expired
from testbed.kubernetes.patches import Object, Refusal
from testbed.kubernetes.watches import Asked, Fault, Watch

ADMIN = "admin"
"""The token of tests. Their requests are exempt from faults, outages and rules, and not recorded."""


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ApiDouble:
    """The server. Its attributes may be changed at any time and apply from the next request on."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.objects.listeners.append(self._changed)
        self.requests: list[Asked] = []
        self.watches: list[Watch] = []
        self.tokens: set[str] | None = None
        """Bearer tokens that are let in; None lets everybody in."""
        self.forbidden: set[tuple[str, str]] = set()
        """Pairs of verb and plural that RBAC does not grant."""
        self.gone_as_status = False
        """Whether a watch from a forgotten version is answered with HTTP 410 or with an ERROR event."""
        self.down = False
        """Connections are dropped without an answer."""
        self.watch_bytes = 0
        self._faults: list[Fault] = []
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.host = "127.0.0.1"

    # --- faults ---

    def fail(
        self,
        matches: Callable[[Asked], bool] = lambda _: True,
        *,
        times: float = 1,
        code: int = 0,
        headers: dict[str, str] | None = None,
        hang: bool = False,
    ) -> Fault:
        """Have the next `times` matching requests fail: dropped, hanging, or with a status.
        A dropped GET counts twice, as aiohttp repeats it once.
        """
        fault = Fault(matches, times, code, headers or {}, hang)
        self._faults.append(fault)
        return fault

    def mend(self) -> None:
        """End all faults and the outage."""
        self._faults.clear()
        self.down = False

    def outage(self) -> None:
        """Drop all connections, and new ones until `mend`."""
        self.down = True
        self.cut_watches()

    def cut_watches(self) -> None:
        """Abort all open watches."""
        for watch in self.watches:
            watch.cut = True
            watch.awake.set()

    def mute_watches(self) -> None:
        """Keep all open watches open and send nothing more on them."""
        for watch in self.watches:
            watch.mute = True

    def bookmark(self) -> None:
        """Send a bookmark on every open watch now."""
        for watch in self.watches:
            watch.bookmarks += 1
            watch.awake.set()

    def expire_watches(self) -> None:
        """Compact the history, and send the error on open watches."""
        self.objects.compact()
        for watch in self.watches:
            watch.gone = True
            watch.awake.set()

    def count(self, verb: str, resource: Resource | None = None) -> int:
        """The number of such requests. Each page of a list counts."""
        return sum(
            asked.verb == verb and resource in (None, asked.resource) for asked in self.requests
        )

    def counts(self) -> Counter[tuple[str, str]]:
        """Requests by verb and plural."""
        return Counter((asked.verb, asked.resource.plural) for asked in self.requests)

    # --- start and end ---

    async def start(self, port: int = 0) -> None:
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, port).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def kubeconfig(self, file: Path, token: str = "") -> Path:
        """Write a kubeconfig for this server, with the token in a file beside it, like a kubelet's."""
        user: Object = {}
        if token:
            file.with_suffix(".token").write_text(token)
            user["tokenFile"] = str(file.with_suffix(".token"))
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "double",
                    "contexts": [{"name": "double", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                    "users": [{"name": "u", "user": user}],
                }
            )
        )
        return file

    # --- requests ---

    def _changed(self, change: Change) -> None:
        for watch in self.watches:
            watch.offer(change)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        admin = request.headers.get("authorization") == f"Bearer {ADMIN}"
        if self.down and not admin:
            return _drop(request)
        if asked is None:
            return web.Response(status=404, text="404 page not found\n")
        if not admin:
            self.requests.append(asked)
        for fault in () if admin else self._faults:
            if fault.times > 0 and fault.matches(asked):
                fault.times -= 1
                if fault.hang:
                    await asyncio.Event().wait()
                if not fault.code:
                    return _drop(request)
                refusal = Refusal(fault.code, "InjectedFault", "injected")
                return _status(refusal, fault.headers)
        try:
            if not admin:
                self._admit(asked)
            if asked.verb == "watch":
                return await self._watch(request, asked)
            return web.json_response(await self._answer(request, asked))
        except Refusal as refusal:
            return _status(refusal)

    def _asked(self, request: web.Request) -> Asked | None:
        match [part for part in request.path.split("/") if part]:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                return None
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        resource = next(
            (
                r
                for r in self.objects.served
                if (r.group, r.version, r.plural) == (group, version, plural)
            ),
            None,
        )
        if resource is None:
            return None
        query = dict(request.query)
        verb = _VERBS.get(request.method, "get" if name else "list")
        if verb == "list" and query.get("watch") in ("1", "true"):
            verb = "watch"
        authorization = request.headers.get("authorization", "")
        return Asked(verb, resource, namespace, name, subresource, query, authorization)

    def _admit(self, asked: Asked) -> None:
        if (
            self.tokens is not None
            and asked.authorization.removeprefix("Bearer ") not in self.tokens
        ):
            raise Refusal(401, "Unauthorized", "Unauthorized")
        plural = "/".join(filter(None, (asked.resource.plural, asked.subresource)))
        if (asked.verb, plural) in self.forbidden:
            where = (
                f'in the namespace "{asked.namespace}"'
                if asked.namespace
                else "at the cluster scope"
            )
            group = asked.resource.group
            text = f'{asked.resource} is forbidden: User "system:serviceaccount:gateway:epp-client" cannot '
            text += f'{asked.verb} resource "{plural}" in API group "{group}" {where}'
            raise Refusal(403, "Forbidden", text, kind=plural, group=group)

    async def _answer(self, request: web.Request, asked: Asked) -> Object:
        objects, resource = self.objects, asked.resource
        key: Key = (asked.namespace, asked.name)
        match asked.verb:
            case "list":
                query = asked.query
                return objects.page(
                    resource,
                    asked.namespace or None,
                    query.get("labelSelector", ""),
                    query.get("fieldSelector", ""),
                    int(query.get("limit", 0)),
                    query.get("continue", ""),
                )
            case "get":
                return objects.get(resource, key)
            case "create":
                return objects.create(resource, asked.namespace, await request.json())
            case "update":
                return objects.replace(resource, key, await request.json(), asked.subresource)
            case "patch":
                body = await request.read()
                return objects.patch(resource, key, request.content_type, body, asked.subresource)
            case _:
                options = await request.json() if request.can_read_body else {}
                return objects.delete(resource, key, options)

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        version = asked.query.get("resourceVersion", "")
        after = int(version or 0) or self.objects.version
        watch = Watch(asked, after)
        refusal: Refusal | None = None
        if version in ("", "0"):
            # "Get state and start at any": existing objects are sent as ADDED.
            labels, fields = (
                asked.query.get("labelSelector", ""),
                asked.query.get("fieldSelector", ""),
            )
            initial = self.objects.all(asked.resource, asked.namespace or None, labels, fields)
        else:
            initial = []
            try:
                for change in self.objects.since(after):
                    watch.offer(change)
            except Refusal as error:
                refusal = error
        if refusal is not None and self.gone_as_status:
            raise refusal
        response = web.StreamResponse(headers={"content-type": "application/json"})
        self.watches.append(watch)
        try:
            await response.prepare(request)
            for found in initial:
                await self._say(response, {"type": "ADDED", "object": found})
            if refusal is not None:
                await self._say(response, {"type": "ERROR", "object": refusal.status})
                return response
            async with asyncio.timeout(float(asked.query.get("timeoutSeconds", 1800))):
                await self._follow(response, watch)
        except TimeoutError:
            if not watch.queue:
                await self._say(response, self._bookmark(watch))
        finally:
            self.watches.remove(watch)
        if watch.cut:
            return _drop(request, response)
        return response

    async def _follow(self, response: web.StreamResponse, watch: Watch) -> None:
        while not watch.cut:
            watch.awake.clear()
            if watch.mute:
                await watch.awake.wait()
            elif watch.queue:
                change = watch.queue.popleft()
                watch.version = change.version
                if (event := watch.event(change)) is not None:
                    await self._say(response, event)
            elif watch.gone:
                error = expired(watch.version, self.objects.oldest)
                await self._say(response, {"type": "ERROR", "object": error.status})
                return
            elif watch.bookmarks:
                watch.bookmarks -= 1
                await self._say(response, self._bookmark(watch))
            else:
                await watch.awake.wait()

    def _bookmark(self, watch: Watch) -> Object:
        watch.version = self.objects.version
        resource = watch.asked.resource
        metadata = {"resourceVersion": str(watch.version), "creationTimestamp": None}
        data = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return {"type": "BOOKMARK", "object": data}

    async def _say(self, response: web.StreamResponse, event: Object) -> None:
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        self.watch_bytes += len(line)
        await response.write(line)


def _status(refusal: Refusal, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(refusal.status, status=refusal.code, headers=headers)


def _drop(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Abort the connection."""
    if request.transport is not None:
        request.transport.abort()
    return response if response is not None else web.Response(status=503)


@asynccontextmanager
async def running() -> AsyncIterator[ApiDouble]:
    """A started double."""
    double = ApiDouble()
    await double.start()
    try:
        yield double
    finally:
        await double.close()


def watching(resource: Resource) -> Callable[[Asked], bool]:
    """Matches the watches of a resource."""
    return lambda asked: (asked.verb, asked.resource) == ("watch", resource)


def listing(resource: Resource) -> Callable[[Asked], bool]:
    """Matches the lists of a resource."""
    return lambda asked: (asked.verb, asked.resource) == ("list", resource)
