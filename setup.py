"""Compiles the hot path with mypyc when EPP_CLIENT_COMPILE=1; without it the package is plain Python.

The same sources either way: what is compiled takes a quarter of the CPU, and needs a C compiler once.
build_backend.py sets the switch where there is one.
"""

import os
import sys

from setuptools import setup

HOT_PATH = [
    "ext_proc/messages",
    "ext_proc/plain",
    "ext_proc/replies",
    "ext_proc/identity",
    "metrics/counters",
    "picker/address",
    "picker/client",
    "picker/fallback",
    "picker/health",
    "picker/immediate",
    "picker/mutations",
    "picker/pick",
    "picker/preparation",
    "picker/protocol",
    "picker/steering",
    "picker/unreachable",
    "pool/request_settings",
    "pool/store",
    "relay/actions",
    "relay/answering",
    "relay/ending",
    "relay/exchange",
    "relay/growth",
    "relay/lane",
    "relay/lane_states",
    "relay/originals",
    "relay/phases",
    "relay/request_phase",
    "relay/response_phase",
    "relay/result",
    "relay/retention",
    "relay/state",
    "relay/transitions",
    "relay/without_picker",
    "data_plane/deadlines",
    "data_plane/account",
    "data_plane/gaps",
    "data_plane/picker_events",
    "data_plane/recorder",
    "data_plane/service",
    "data_plane/shared",
    "data_plane/session",
    "data_plane/verdicts",
    "wire/http2/calm",
    "wire/http2/client",
    "wire/http2/client_stream",
    "wire/http2/connection",
    "wire/http2/frames",
    "wire/http2/grpc",
    "wire/http2/headers",
    "wire/http2/inbox",
    "wire/health",
    "wire/native",
    "wire/native_connection",
    "wire/http2/outbox",
    "wire/protocol",
    "wire/http2/server",
    "wire/http2/server_stream",
    "wire/http2/stream",
    "wire/http2/streams",
    "wire/status",
    "wire/transport",
]
"""What a request runs through. Values that are pickled between processes stay out."""


# Compiled code calls CPython's functions some hundred times for each message: without a jump through the
# table of the dynamic linker, that is 4 to 5 % less CPU for a request.
FLAGS = ["-fno-plt", "-fno-semantic-interposition", "-fvisibility=hidden"]


def extensions() -> list:  # type: ignore[type-arg]
    if os.environ.get("EPP_CLIENT_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    made = mypycify([f"epp_client/{name}.py" for name in HOT_PATH], opt_level="3")
    if sys.platform == "linux":
        for extension in made:
            extension.extra_compile_args += FLAGS
    return made


setup(ext_modules=extensions())
