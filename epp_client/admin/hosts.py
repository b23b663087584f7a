"""Checks the `Host` header of requests to the admin page, against DNS rebinding: the page of another site
whose name resolves to this address gets a 403.
"""

import socket
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
OPEN = frozenset(("/livez",))
"""Pages without information, which may be requested by any name."""


def only_for(bound: str, more: Collection[str]) -> Middleware:
    """Middleware that answers 403 unless `Host` names loopback, the local address of the connection (a
    Pod's own, for the kubelet and Prometheus), the `bound` host, this machine's name, or one of `more`.

    A request without a `Host`, which HTTP/1.0 allows, is accepted: no browser sends one.
    """
    names = {_canonical(name) for name in (*LOOPBACK, bound, socket.gethostname(), *more)}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = host_name(request.headers.get("host", ""))
        if name and name not in names and name != _arrived_at(request) and request.path not in OPEN:
            raise web.HTTPForbidden(
                text=f"host name {name[:100]!r} is not allowed; "
                "allow it with --admin-host, or EPP_CLIENT_ADMIN_HOSTS\n"
            )
        return await handler(request)

    return check


def host_name(host: str) -> str:
    """The name or address in a `Host` header, without port and brackets."""
    host = host.strip()
    if host.startswith("["):
        return _canonical(host.partition("]")[0])
    name, colon, port = host.rpartition(":")
    return _canonical(name if colon and port.isdigit() and ":" not in name else host)


def _canonical(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _arrived_at(request: web.Request) -> str:
    """The local address of the connection."""
    transport = request.transport
    address = transport.get_extra_info("sockname") if transport is not None else None
    return _canonical(str(address[0]).removeprefix("::ffff:")) if address else ""
