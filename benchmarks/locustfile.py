"""OpenAI-style chat for locust, with plain and streamed responses.

    locust -f benchmarks/locustfile.py --host http://127.0.0.10:PORT/default/open

`--host` is the URL of a pool in Envoy. Beside the requests, locust's table has entries `TTFT` (from the
request to its first token) and `inter-token` (between two tokens). A stream without `[DONE]` and a response
without choices are failures.
"""

import time

from locust import HttpUser, between, task
from locust.clients import ResponseContextManager

PATH = "/v1/chat/completions"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Say hello. " * 50}]}


class ChatUser(HttpUser):
    """A user with three streamed responses for each plain one, and pauses in between."""

    wait_time = between(0.01, 0.05)

    @task(1)
    def whole(self) -> None:
        """A plain response."""
        with self.client.post(PATH, json=CHAT, name="chat", catch_response=True) as answer:
            if self._refused(answer):
                return
            if not answer.json().get("choices"):
                answer.failure("an answer without choices")

    @task(3)
    def streamed(self) -> None:
        """A streamed response."""
        began = last = time.perf_counter()
        tokens, tail = 0, b""
        with self.client.post(
            PATH,
            json={**CHAT, "stream": True, "max_tokens": 20},
            name="chat, streamed",
            stream=True,
            catch_response=True,
        ) as answer:
            if self._refused(answer):
                return
            for piece in answer.iter_content(chunk_size=None):
                now = time.perf_counter()
                events = (tail + piece).count(b"data: {") - tail.count(b"data: {")
                tail = (tail + piece)[-16:]
                if events:
                    self._time("TTFT" if not tokens else "inter-token", now - last)
                    last, tokens = now, tokens + events
            if b"data: [DONE]" not in tail:
                answer.failure(f"the stream broke off after {tokens} tokens")
            elif not tokens:
                answer.failure("a stream without tokens")
            answer.request_meta["response_time"] = (time.perf_counter() - began) * 1000

    @staticmethod
    def _refused(answer: ResponseContextManager) -> bool:
        if answer.status_code == 200:
            return False
        reason = answer.headers.get("x-inference-error", "")
        answer.failure(f"{answer.status_code} {reason}")
        return True

    def _time(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="TOKEN",
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )
