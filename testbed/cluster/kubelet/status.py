"""The status of a Pod as a kubelet writes it, from the states of its containers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from testbed.cluster.api import Object
from testbed.cluster.kubelet.sandbox import NODE


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Waiting:
    """A container that does not run yet, or not again yet."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """A container that runs."""

    since: str


@dataclass(frozen=True)
class Terminated:
    """A container that has ended."""

    code: int
    since: str
    ended: str

    @property
    def reason(self) -> str:
        """As a kubelet words it."""
        return "Completed" if self.code == 0 else "Error"


State = Waiting | Running | Terminated


@dataclass
class ContainerStatus:
    """What is known of one container."""

    name: str
    image: str
    restartable: bool
    """A main container, or an init container that keeps running: its readiness is part of the Pod's."""
    init: bool
    state: State = field(default_factory=lambda: Waiting("PodInitializing"))
    last: Terminated | None = None
    started: bool = False
    """Whether its startup probe has passed, or it runs and has none."""
    ready: bool = False
    restarts: int = 0

    def written(self) -> Object:
        """Its entry in the Pod's status."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": _state(self.state),
            "lastState": {} if self.last is None else _state(self.last),
        }

    @property
    def done(self) -> bool:
        """Whether an init container lets the next one start."""
        if self.restartable:
            return self.started
        return isinstance(self.state, Terminated) and self.state.code == 0


def _state(state: State) -> Object:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, "message": message}}
        case Running(since):
            return {"running": {"startedAt": since}}
        case Terminated(code, since, ended):
            return {
                "terminated": {
                    "exitCode": code,
                    "reason": state.reason,
                    "startedAt": since,
                    "finishedAt": ended,
                }
            }


@dataclass
class Conditions:
    """The conditions of a Pod. `lastTransitionTime` changes with the status alone."""

    _known: dict[str, tuple[bool, str]] = field(default_factory=dict)

    def written(self, values: dict[str, bool]) -> list[Object]:
        """The conditions with their times."""
        for kind, value in values.items():
            if kind not in self._known or self._known[kind][0] != value:
                self._known[kind] = (value, now())
        return [
            {"type": kind, "status": str(value), "lastTransitionTime": since}
            for kind, (value, since) in self._known.items()
        ]


def phase(containers: Sequence[ContainerStatus], restarts: str) -> str:
    """The phase of a Pod whose `restartPolicy` is `restarts`."""
    init = [c for c in containers if c.init]
    main = [c for c in containers if not c.init]
    failed = [c for c in init if isinstance(c.state, Terminated) and c.state.code != 0]
    if restarts == "Never" and any(not c.restartable for c in failed):
        return "Failed"
    ended = [c.state for c in main if isinstance(c.state, Terminated)]
    if main and len(ended) == len(main) and restarts != "Always":
        return "Succeeded" if all(state.code == 0 for state in ended) else "Failed"
    if not all(c.done for c in init) or all(
        isinstance(c.state, Waiting) and c.restarts == 0 for c in main
    ):
        return "Pending"
    return "Running"


def pod_status(
    containers: Sequence[ContainerStatus],
    conditions: Conditions,
    *,
    address: str | None,
    started: str,
    restarts: str,
) -> Object:
    """The status of a Pod with these containers."""
    initialized = all(c.done for c in containers if c.init)
    ready = initialized and all(c.ready for c in containers if c.restartable)
    values = {
        "PodReadyToStartContainers": address is not None,
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": True,
    }
    status: Object = {
        "phase": phase(containers, restarts),
        "hostIP": NODE,
        "hostIPs": [{"ip": NODE}],
        "startTime": started,
        "conditions": conditions.written(values),
        "initContainerStatuses": [c.written() for c in containers if c.init],
        "containerStatuses": [c.written() for c in containers if not c.init],
    }
    if address is not None:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    return status
