"""What the kubelet of the one-machine cluster does for Pods: volumes, users, probes, restarts, ends."""

import asyncio
import re
from pathlib import Path

import pytest

from testbed.cluster.machine import Machine
from tests.cluster.pods import (
    config_map,
    containers,
    phase,
    pod,
    ready,
    secret,
    shell,
    until,
    until_gone,
)

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

SEES = r"""
set -u
echo "user $(id -u):$(id -g) of $(id -G)"
echo "variables $NAME $NODE $FROM_MAP $ADDRESS"
echo "map $(cat /etc/config/renamed) and $(ls /etc/config)"
echo "secret $(cat /etc/secret/key) $(stat -c %a /etc/secret/key)"
echo "shared $(cat /run/shared/from-init) on $(stat -f -c %T /run/shared)"
echo "token $(stat -L -c '%a %g' /var/run/secrets/tokens/token) $(cat /var/run/secrets/tokens/place)"
for place in /tmp /etc/config /run/shared; do
  if touch $place/new 2> /dev/null; then echo "$place is writable"; else echo "$place is read-only"; fi
done
"""


async def test_a_container_sees_what_its_spec_says(machine: Machine, own_namespace: str) -> None:
    projected = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {
            "downwardAPI": {
                "items": [{"path": "place", "fieldRef": {"fieldPath": "metadata.namespace"}}]
            }
        },
    ]
    volumes = [
        {
            "name": "config",
            "configMap": {"name": "map", "items": [{"key": "a", "path": "renamed"}]},
        },
        {"name": "secret", "secret": {"secretName": "late", "defaultMode": 0o400}},
        {"name": "shared", "emptyDir": {"medium": "Memory"}},
        {"name": "tokens", "projected": {"sources": projected}},
    ]
    shared = {"name": "shared", "mountPath": "/run/shared"}
    mounts = [
        {"name": "config", "mountPath": "/etc/config", "readOnly": True},
        {"name": "secret", "mountPath": "/etc/secret"},
        {"name": "tokens", "mountPath": "/var/run/secrets/tokens"},
    ]
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "a"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "ADDRESS", "value": "$(IP):80"},
    ]
    seeing = pod(
        "seeing", own_namespace,
        shell("main", SEES, env=env, volumeMounts=[*mounts, {**shared, "readOnly": True}],
              securityContext={"readOnlyRootFilesystem": True}),
        initContainers=[shell("init", "echo hello > /run/shared/from-init", volumeMounts=[shared])],
        volumes=volumes,
        restartPolicy="Never",
        securityContext={"runAsUser": 4321, "runAsGroup": 4322, "fsGroup": 4323},
    )  # fmt: skip
    await machine.api.apply([config_map("map", own_namespace, a="one", b="two"), seeing])
    await until(machine.api, seeing, lambda item: item["status"].get("podIP"))
    assert phase(await machine.api.get(seeing)) == "Pending", "its Secret is not there"

    await machine.api.apply([secret("late", own_namespace, key="hidden")])
    done = await until(machine.api, seeing, lambda item: phase(item) in ("Succeeded", "Failed"))
    assert machine.log(own_namespace, "seeing", "main").splitlines() == [
        "user 4321:4322 of 4322 4323",
        f"variables seeing machine one {done['status']['podIP']}:80",
        "map one and renamed",
        "secret hidden 440",
        "shared hello on tmpfs",
        f"token 640 4323 {own_namespace}",
        "/tmp is read-only",
        "/etc/config is read-only",
        "/run/shared is read-only",
    ]
    assert phase(done) == "Succeeded"
    await machine.api.delete(seeing)


async def test_probes_hold_back_restart_and_take_out_of_service(
    machine: Machine, own_namespace: str
) -> None:
    started = {
        "exec": {"command": ["test", "-e", "/tmp/started"]},
        "periodSeconds": 1,
        "failureThreshold": 60,
    }
    alive = {
        "exec": {"command": ["test", "!", "-e", "/tmp/dead"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    serving = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    # Its SIGTERM is heard, so that its end does not wait for the grace.
    lasting = (
        "trap 'exit 3' TERM; touch /tmp/started /tmp/ready; sleep 1; {}; sleep infinity & wait"
    )
    probed = pod(
        "probed", own_namespace,
        shell("dies", lasting.format("touch /tmp/dead"), livenessProbe=alive),
        shell("not-ready", lasting.format("rm /tmp/ready"),
              readinessProbe={**serving, "failureThreshold": 1}),
        initContainers=[
            shell("sidecar", f"echo began; {lasting.format(':')}", restartPolicy="Always",
                  startupProbe=started)
        ],
    )  # fmt: skip
    await machine.api.apply([probed])
    seen = await until(
        machine.api,
        probed,
        lambda item: (
            all(name in containers(item) for name in ("dies", "not-ready"))
            and containers(item)["dies"]["restartCount"] > 0
            and containers(item)["not-ready"]["started"]
            and not containers(item)["not-ready"]["ready"]
        ),
    )
    now = containers(seen)
    assert now["dies"]["lastState"]["terminated"]["exitCode"] == 3, "it was ended by SIGTERM"
    assert [now[name]["restartCount"] for name in ("sidecar", "not-ready")] == [0, 0]
    assert not ready(seen)
    assert machine.log(own_namespace, "probed", "sidecar") == "began\n"
    await machine.api.delete(probed)


TIMED = "trap 'date +\"term %s.%N\"; exit 0' TERM; echo up; sleep infinity & wait"


async def test_an_end_is_in_order_keeps_the_grace_and_leaves_nothing(
    machine: Machine, own_namespace: str
) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "date +'hook %s.%N'; sleep 1"]}}}
    shared = {"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]}
    ending = pod(
        "ending", own_namespace,
        # A shell that is process 1 does not hear a SIGTERM that it does not trap.
        shell("deaf", "echo up; while :; do sleep 1; done", **shared),
        shell("polite", TIMED, lifecycle=hook),
        initContainers=[shell("sidecar", TIMED, restartPolicy="Always")],
        volumes=[{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        terminationGracePeriodSeconds=4,
    )  # fmt: skip
    await machine.api.apply([ending])
    item = await until(machine.api, ending, ready)
    uid, link = item["metadata"]["uid"], f"pod{item['status']['podIP'].rpartition('.')[2]}"
    for name in ("deaf", "polite", "sidecar"):
        # Ready is what runs; the trap may come after that.
        async with asyncio.timeout(60):
            while "up" not in machine.log(own_namespace, "ending", name):
                await asyncio.sleep(0.05)
    assert uid in Path("/proc/mounts").read_text()
    assert link in Path("/proc/net/dev").read_text()

    began = asyncio.get_running_loop().time()
    await machine.api.delete(ending, grace=4)
    await until_gone(machine.api, ending)
    took = asyncio.get_running_loop().time() - began
    assert took >= 3.9, "one does not hear SIGTERM, and gets its grace"
    times = {
        f"{name} {what}": float(number)
        for name in ("polite", "sidecar")
        for what, number in re.findall(
            r"(hook|term) ([\d.]+)", machine.log(own_namespace, "ending", name)
        )
    }
    assert times["polite hook"] + 1 <= times["polite term"] < times["sidecar term"]
    async with asyncio.timeout(10):
        while (
            uid in Path("/proc/mounts").read_text()
            or f"{link}:" in Path("/proc/net/dev").read_text()
        ):
            await asyncio.sleep(0.05)
    assert not list((machine.folder / "volumes").glob(uid))


async def test_what_cannot_run_is_said_in_the_status(machine: Machine, own_namespace: str) -> None:
    unknown = {"name": "main", "image": "registry.test/nothing:1"}
    item = pod("unknown", own_namespace, unknown)
    await machine.api.apply([item])
    found = await until(machine.api, item, lambda i: containers(i).get("main", {}).get("state"))
    found = await until(machine.api, item, lambda i: "Pull" in str(containers(i)["main"]["state"]))
    said = containers(found)["main"]["state"]["waiting"]
    assert said["reason"] == "ErrImagePull"
    assert "registry.test/nothing:1" in said["message"]
    await machine.api.delete(item)
