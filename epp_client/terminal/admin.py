"""Asks a sidecar's admin page over HTTP. A shell; the standard library is enough, and starts quickly."""

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from epp_client.errors import AdminUnreachable
from epp_client.option_values import host_port

TIMEOUT: Final = 10.0
"""Seconds for an answer. A page of 10 000 endpoints takes less than one."""
_LONGEST_ANSWER: Final = 64 * 1024 * 1024
_ASKED = {"accept": "application/json", "connection": "close"}


def read_json(
    address: str, path: str, query: Mapping[str, Any] | None = None, timeout: float = TIMEOUT
) -> Any:
    """The JSON of a page at host:port.

    Raises:
        AdminUnreachable: there is no such answer; the text says what to do.
    """
    with _translated(address), _asked(address, path, query, timeout) as answer:
        return json.loads(answer.read(_LONGEST_ANSWER))


def read_lines(address: str, path: str, query: Mapping[str, Any], patience: float) -> Iterator[str]:
    """The lines of a page that goes on, until it ends. `patience`: longest silence in seconds.

    Raises:
        AdminUnreachable: it has ended, is silent, or there is no such page.
    """
    with _translated(address), _asked(address, path, query, patience) as answer:
        while line := answer.readline(_LONGEST_ANSWER):
            yield line.decode(errors="replace").rstrip("\r\n")
    raise AdminUnreachable(f"{address} has closed the connection")


@contextlib.contextmanager
def _asked(
    address: str, path: str, query: Mapping[str, Any] | None, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    host, port = host_port(address)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=_ASKED)
        answer = connection.getresponse()
        with answer:
            if answer.status != 200:
                raise AdminUnreachable(_refusal(address, path, answer))
            yield answer


def _refusal(address: str, path: str, answer: http.client.HTTPResponse) -> str:
    text = answer.read(1000).decode(errors="replace").strip()
    if answer.status == 404:
        return (
            f"{address} has no {path}: it is not the admin page of an epp-client, or one older than this"
            " command. Check the port, or upgrade the sidecar"
        )
    return f"{address} answers {path} with {answer.status}: {text[:200]}"


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except ConnectionRefusedError as error:
        raise AdminUnreachable(
            f"nothing listens at {address}. Is the sidecar running? Say where its admin page is:"
            " --admin HOST:PORT, --pod NAME (by kubectl), or --up"
        ) from error
    except TimeoutError as error:
        raise AdminUnreachable(f"{address} does not answer in time") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        what = str(error) or type(error).__name__
        raise AdminUnreachable(
            f"{address} does not answer as an admin page: {what}. Check the address"
        ) from error
