"""Compares a simulated picker with a real one: the same messages in, are the answers the same? Pure."""

from collections.abc import Iterable, Sequence

from google.protobuf.json_format import MessageToDict

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from testbed.conversation import Conversation as Simulated
from testbed.dialects import DIALECTS


def simulated_answers(
    asked: Iterable[ProcessingRequest], dialect: str, endpoints: Sequence[str]
) -> list[ProcessingResponse]:
    """What the simulated picker of this dialect answers to these messages."""
    conversation = Simulated(endpoints, 0, (dialect,), DIALECTS)
    steps = [step for message in asked for step in conversation.receive(message)]
    return [step for step in steps if isinstance(step, ProcessingResponse)]


def comparable(answers: Iterable[ProcessingResponse]) -> list[object]:
    """Answers without the order of headers, which Go's maps make another one each time."""
    return [_comparable(answer) for answer in answers]


def _comparable(answer: ProcessingResponse) -> object:
    fields = MessageToDict(answer)
    for phase in fields.values():
        mutation = phase.get("response", {}).get("headerMutation", {})
        if "setHeaders" in mutation:
            mutation["setHeaders"].sort(key=lambda option: str(option["header"]["key"]))
    return fields
