"""The Kubernetes API as a few calls with JSON objects in and out, which raise `ApiError`.

kubernetes_asyncio provides the configuration and the transport. Its models and its Watch are not used.
Callers decide about retries. The one exception is a 401: the credentials are read again and the call is
repeated once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from kubernetes_asyncio.client.rest import RESTClientObject

from epp_client.errors import ApiError, ApiFault, SettingsError
from epp_client.kubernetes.client.access import Access, tls_files
from epp_client.kubernetes.client.faults import Call, refusal, unreachable
from epp_client.kubernetes.client.resources import Resource
from epp_client.kubernetes.client.watch import WatchStream
from epp_client.version import VERSION

Object = Mapping[str, Any]

PAGE = 500
"""Objects per page. A page of full Pods is about 4 MB: 40 ms of parsing at a time."""

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one response."""

CONNECT_TIMEOUT = 5.0
CALL_TIMEOUT = 30.0
WATCH_ANSWER_TIMEOUT = 30.0
"""Seconds from the request of a watch to its first byte: the server answers with its first event."""

_USER_AGENT = f"epp-client/{VERSION}"


_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"


class Page(NamedTuple):
    """One page of a list."""

    items: list[dict[str, Any]]
    resource_version: str
    next: str
    """The continue token of the page after this one; empty after the last."""


class KubernetesApi:
    """A client of one API server. Call `open` first and `close` at the end."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._renewing = asyncio.Lock()
        self._epoch = 0

    async def open(self) -> None:
        """Read the configuration. Connects to nothing yet.

        Raises:
            SettingsError: the configuration is not usable.
        """
        self._configuration = await self.access.load()
        try:
            self._tls = tls_files(self._configuration)
            self._rest = RESTClientObject(self._configuration)
        except OSError as error:
            # Errors of `ssl` are OSErrors.
            raise SettingsError(f"{self.access}: TLS: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._rest.close()

    @property
    def server(self) -> str:
        """`https://host:port`, for texts."""
        return str(self._configuration.host)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        next: str = "",
    ) -> Page:
        """List one page of the objects in `namespace`, or in all namespaces.

        `next` is from the previous page. Lists are consistent reads, as of their resourceVersion.
        """
        call = Call("list", resource, namespace)
        query = {
            "limit": str(limit),
            "continue": next,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        found = await self._call(call, "GET", query=query)
        metadata = found.get("metadata") or {}
        version = str(metadata.get("resourceVersion") or "")
        return Page(found.get("items") or [], version, str(metadata.get("continue") or ""))

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout: float = 300.0,
        idle_timeout: float = 120.0,
    ) -> AsyncIterator[WatchStream]:
        """Watch changes after `resource_version`. The server has accepted once the context is entered.

        The server ends the watch after `timeout` seconds. `idle_timeout` seconds of silence count as a
        dead connection: a server sends a bookmark each minute.
        """
        call = Call("watch", resource, namespace)
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(timeout)),
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
        }
        limits = aiohttp.ClientTimeout(
            sock_connect=CONNECT_TIMEOUT, sock_read=max(idle_timeout, WATCH_ANSWER_TIMEOUT)
        )
        response = await self._send(call, "GET", query=query, limits=limits)
        try:
            yield WatchStream(call, response, self.server, idle_timeout)
        finally:
            response.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        return await self._call(Call("get", resource, namespace, name), "GET")

    async def create(
        self, resource: Resource, data: Object, namespace: str | None = None
    ) -> Object:
        """Create an object, and return it as the server stored it."""
        name = str((data.get("metadata") or {}).get("name") or "")
        call = Call("create", resource, namespace, name)
        return await self._call(call, "POST", path=resource.path(namespace), body=data)

    async def replace(
        self,
        resource: Resource,
        name: str,
        data: Object,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> Object:
        """Replace an object; CONFLICT when its resourceVersion is not the newest."""
        return await self._call(
            Call("update", resource, namespace, name, subresource), "PUT", body=data
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        data: Object,
        namespace: str | None = None,
        *,
        subresource: str = "",
        strict: bool = False,
    ) -> Object:
        """Merge `data` into an object; CONFLICT when `data` has an old resourceVersion.

        With `strict` the server refuses unknown fields instead of dropping them.
        """
        query = {"fieldManager": "epp-client"}
        if strict:
            query["fieldValidation"] = "Strict"
        call = Call("patch", resource, namespace, name, subresource)
        return await self._call(call, "PATCH", query=query, body=data, content_type=_MERGE_PATCH)

    async def apply(
        self, resource: Resource, name: str, data: Object, namespace: str | None, manager: str
    ) -> Object:
        """Server-side apply: create the object or set the fields in `data`, and remove those that `manager`
        applied before and `data` no longer has. Fields that others have changed are taken back."""
        query = {"fieldManager": manager, "force": "true"}
        call = Call("patch", resource, namespace, name)
        return await self._call(call, "PATCH", query=query, body=data, content_type=_APPLY_PATCH)

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, uid: str = ""
    ) -> None:
        """Delete an object, and in the background what it owns; CONFLICT when it has another `uid`."""
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._call(Call("delete", resource, namespace, name), "DELETE", body=options)

    async def _call(
        self,
        call: Call,
        method: str,
        *,
        path: str = "",
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        limits = aiohttp.ClientTimeout(total=CALL_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
        response = await self._send(
            call,
            method,
            path=path,
            query=query or {},
            body=body,
            content_type=content_type,
            limits=limits,
        )
        try:
            found = json.loads(await self._read(call, response))
        except ValueError as error:
            raise unreachable(call, self.server, "the response is not JSON") from error
        if not isinstance(found, dict):
            raise unreachable(call, self.server, "the response is not a JSON object")
        return found

    async def _send(
        self,
        call: Call,
        method: str,
        *,
        path: str = "",
        query: Mapping[str, str],
        body: Object | None = None,
        content_type: str = "application/json",
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send the call, and return a successful response."""
        path = path or call.resource.path(call.namespace, call.name, call.subresource)
        again = True
        while True:
            epoch = self._epoch
            try:
                headers = {"accept": "application/json", "user-agent": _USER_AGENT}
                # The library looks for "Content-Type" in this case only.
                headers |= {"Content-Type": content_type} | await self._authorization()
                response: aiohttp.ClientResponse = await self._rest.request(
                    method,
                    self.server + path,
                    query_params={key: value for key, value in query.items() if value},
                    headers=headers,
                    body=body,
                    _preload_content=False,
                    _request_timeout=limits,
                )
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable(call, self.server, error) from error
            if response.status < 300:
                return response
            said = await self._read(call, response)
            if response.status != 401 or not again:
                raise refusal(call, response.status, said, response.headers.get("retry-after"))
            again = False
            await self._renew(call, epoch)

    async def _authorization(self) -> dict[str, str]:
        # kubernetes_asyncio reads a ServiceAccount's token here, again after each minute.
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        return {"authorization": token.strip()} if token else {}

    async def _read(self, call: Call, response: aiohttp.ClientResponse) -> bytes:
        said = bytearray()
        try:
            async for chunk in response.content.iter_any():
                said += chunk
                if len(said) > MAX_BODY:
                    raise unreachable(
                        call, self.server, f"the response is larger than {MAX_BODY} bytes"
                    )
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(call, self.server, error) from error
        finally:
            response.close() if len(said) > MAX_BODY else response.release()
        return bytes(said)

    async def _renew(self, call: Call, epoch: int) -> None:
        """Read the credentials again, once for all calls that failed with those of `epoch`."""
        async with self._renewing:
            if self._epoch != epoch:
                return
            try:
                configuration = await self.access.load()
                tls = tls_files(configuration)
                if (tls, configuration.host) != (self._tls, self._configuration.host):
                    old, self._rest = self._rest, RESTClientObject(configuration)
                    self._tls = tls
                    # Its watches end, and are opened again from their versions.
                    await old.close()
            except (SettingsError, OSError) as error:
                text = f"cannot {call}: the credentials cannot be renewed: {error}"
                raise ApiError(ApiFault.UNAUTHORIZED, text, 401) from error
            self._configuration = configuration
            self._epoch += 1
