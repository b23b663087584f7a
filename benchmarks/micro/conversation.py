"""The messages of Envoy and a picker for one request, and its pool."""

from types import MappingProxyType

from benchmarks.churn import large
from epp_client.ext_proc.messages import Answer
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.ext_proc.replies import EMPTY, streamed_body
from epp_client.picker.protocol import LB_NAMESPACE, SERVED
from epp_client.picker.steering import destination_reply
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import (
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot

KEY = "10.0.0.1:8000"
BODY = b"x" * 640


def table(count: int) -> EndpointTable:
    """A table with the picked endpoint and `count` others."""
    one = Endpoint(KEY, "10.0.0.1", 8000, "model-0")
    return large(EndpointTable(MappingProxyType({KEY: one}), 1), count)


def snapshot(count: int = 100) -> PoolSnapshot:
    """A FailOpen pool with a picker."""
    pool = InferencePool(
        name=PoolName("default", "llama"),
        match_labels=(("app", "model"),),
        target_ports=(8000,),
        picker=EndpointPickerRef("picker", 9002, FailureMode.FAIL_OPEN),
    )
    return PoolSnapshot(pool, table(count), PickerTarget(("127.0.0.1:9002",)))


def conversation(chunks: int) -> list[tuple[bool, bytes]]:
    """The messages of Envoy (True) and the picker, in order, for a POST whose response has `chunks`
    chunks."""
    headers = ProcessingRequest()
    for name in (":method", ":path", ":authority", "content-type", "x-request-id", "user-agent"):
        headers.request_headers.headers.headers.add(key=name, raw_value=b"some value of it")
    body = ProcessingRequest()
    body.request_body.body = BODY
    end = ProcessingRequest()
    end.request_body.end_of_stream = True
    answer = ProcessingRequest()
    answer.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    fields = answer.metadata_context.filter_metadata[LB_NAMESPACE].fields
    fields[SERVED].string_value = KEY
    said = [
        (True, headers.SerializeToString()),
        (True, body.SerializeToString()),
        (True, end.SerializeToString()),
        (False, destination_reply((KEY,), ())),
        # The end has come with the body.
        (False, streamed_body(Answer.REQUEST_BODY, BODY, True)),
        (True, answer.SerializeToString()),
        (False, EMPTY[Answer.RESPONSE_HEADERS]),
    ]
    for number in range(chunks):
        chunk = ProcessingRequest()
        chunk.response_body.body = BODY[:60]
        said.append((True, chunk.SerializeToString()))
        if ended := number == chunks - 1:
            last = ProcessingRequest()
            last.response_body.end_of_stream = True
            said.append((True, last.SerializeToString()))
        said.append((False, streamed_body(Answer.RESPONSE_BODY, BODY[:60], ended)))
    return said
