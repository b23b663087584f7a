"""Closed-loop HTTP/1.1 load: each connection sends a request when it has the last response.

It takes a few microseconds per request. Its last line is the result as JSON. With streams it first prints
{"steady": chunks} when every stream has begun and {"ending": chunks} when the first one ends, so that only
chunks are measured between the two.
"""

import argparse
import asyncio
import json
import time

import uvloop

STAMP = b'"sent": '


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, results: "Results") -> None:
        self._request = request
        self._results = results
        self._buffer = b""
        self._head = b""
        self._began = 0
        self._chunks = 0
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask_again(self) -> None:
        # One stream per connection, so that all flow at the same time.
        if self._results.chunks or time.monotonic_ns() >= self._results.until:
            self._done = True
            self._transport.close()
        else:
            self._ask()

    def _ask(self) -> None:
        self._head = self._buffer = b""
        self._chunks = 0
        self._began = time.monotonic_ns()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._head:
            self._head, found, buffer = buffer.partition(b"\r\n\r\n")
            if not found:
                self._buffer, self._head = self._head, b""
                return
        if self._results.chunks:
            buffer = self._events(buffer)
        self._buffer = buffer
        if b"transfer-encoding: chunked" in self._head:
            whole = buffer.endswith(b"0\r\n\r\n")
        else:
            length = self._head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            whole = len(buffer) >= int(length)
        if whole:
            self._answered()

    def _answered(self) -> None:
        now, results = time.monotonic_ns(), self._results
        if not self._head.startswith(b"HTTP/1.1 200"):
            results.failed(self._head[9:12].decode())
        elif self._chunks != results.chunks:
            results.failed(f"{self._chunks} of {results.chunks} chunks")
        else:
            results.latencies.append(now - self._began)
        if results.chunks:
            results.stream_ended()
        if results.think:
            asyncio.get_running_loop().call_later(results.think, self._ask_again)
        else:
            self._ask_again()

    def _events(self, buffer: bytes) -> bytes:
        """Measure each complete stamp; returns the rest, which may be an incomplete one."""
        now = time.monotonic_ns()
        *_, tail = pieces = buffer.split(STAMP)
        for piece in pieces[1:]:
            stamp, found, _ = piece.partition(b",")
            if found:
                self._results.delays.append(now - int(stamp))
                self._chunks += 1
                if self._chunks == 1:
                    self._results.stream_began()
        if len(pieces) > 1 and b"," not in tail:
            return STAMP + tail
        return tail[-len(STAMP) :]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done:
            self._results.failed("connection lost")
        self._results.open -= 1
        if not self._results.open:
            self._results.over.set()


class Results:
    """The results of all connections."""

    def __init__(self, connections: int, seconds: float, chunks: int, think: float) -> None:
        self.think = think
        self.latencies: list[int] = []
        self.delays: list[int] = []
        self.errors: dict[str, int] = {}
        self.chunks = chunks
        """Chunks of each response; 0 if responses are not streams."""
        self.open = connections
        self.over = asyncio.Event()
        self.began = time.monotonic_ns()
        self.until = self.began + int(seconds * 1e9)
        self._streams = connections
        self._begun = 0
        self._ending = False

    def failed(self, what: str) -> None:
        """Count a failed request."""
        self.errors[what] = self.errors.get(what, 0) + 1

    def stream_began(self) -> None:
        """A stream has received its first chunk."""
        self._begun += 1
        if self._begun == self._streams and not self._ending:
            print(json.dumps({"steady": len(self.delays)}), flush=True)

    def stream_ended(self) -> None:
        """A stream has received its last chunk."""
        if not self._ending:
            self._ending = True
            print(json.dumps({"ending": len(self.delays)}), flush=True)


def percentile(values: list[int], share: float) -> float:
    """A percentile in microseconds, of sorted nanoseconds."""
    return values[min(len(values) - 1, int(len(values) * share))] / 1000 if values else 0.0


async def main(arguments: argparse.Namespace) -> None:
    """Run the load and print the results."""
    host, _, port = arguments.address.rpartition(":")
    body = b"x" * arguments.size
    request = (
        f"POST {arguments.path} HTTP/1.1\r\nhost: {arguments.address}\r\n"
        "content-type: application/json\r\n"
        f"x-body-size: {len(body)}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    results = Results(arguments.connections, arguments.seconds, arguments.chunks, arguments.think)
    cpu = time.process_time()
    loop = asyncio.get_running_loop()
    await asyncio.gather(
        *(
            loop.create_connection(lambda: Connection(request, results), host, int(port))
            for _ in range(arguments.connections)
        )
    )
    await asyncio.wait_for(results.over.wait(), arguments.seconds + arguments.patience)
    values = {
        "requests": len(results.latencies),
        "seconds": (time.monotonic_ns() - results.began) / 1e9,
        "errors": results.errors,
        "chunks": len(results.delays),
        "client_cpu": time.process_time() - cpu,
    }
    results.latencies.sort()
    results.delays.sort()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        values[name] = percentile(results.latencies, share)
        values[f"delay_{name}"] = percentile(results.delays, share)
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--think", type=float, default=0.0, help="seconds between two requests")
    parser.add_argument(
        "--chunks", type=int, default=0, help="chunks of each response, if it streams"
    )
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds for the last response"
    )
    uvloop.run(main(parser.parse_args()))
