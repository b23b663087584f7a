"""The objects that serve one Gateway without a controller: a Deployment of Envoy and the sidecar, a Service
and rights. Nothing is sent from here."""

from pathlib import Path

from epp_client.envoy.bootstrap import gateway_config
from testbed.cluster.api import Object

ADMIN_PORT = 9902
STATUS_PORT = 9903
_RUN = Path("/run/epp-client")


def _owned(gateway: Object, kind: str, version: str, **more: object) -> Object:
    """An object beside a Gateway that is deleted with it."""
    metadata = gateway["metadata"]
    owner = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": f"epp-client-{metadata['name']}",
            "namespace": metadata["namespace"],
            "ownerReferences": [owner],
        },
        **more,
    }


def _labels(gateway: Object) -> dict[str, str]:
    return {"gateway.networking.k8s.io/gateway-name": gateway["metadata"]["name"]}


def service(gateway: Object) -> Object:
    """The Service whose load balancer is the Gateway's address, with all ports of its listeners."""
    numbers = sorted({listener["port"] for listener in gateway["spec"]["listeners"]})
    ports = [{"name": f"port-{n}", "port": n, "targetPort": n, "protocol": "TCP"} for n in numbers]
    spec = {"type": "LoadBalancer", "selector": _labels(gateway), "ports": ports}
    return _owned(gateway, "Service", "v1", spec=spec)


def objects(gateway: Object, address: str) -> list[Object]:
    """What serves the Gateway at `address`."""
    metadata = gateway["metadata"]
    name, namespace = f"epp-client-{metadata['name']}", metadata["namespace"]
    account = _owned(gateway, "ServiceAccount", "v1")
    # These are test clusters: the least rights are shown elsewhere.
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{namespace}-{name}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    return [account, binding, _bootstrap(gateway), _deployment(gateway, address)]


def _bootstrap(gateway: Object) -> Object:
    text = gateway_config(
        status=("0.0.0.0", STATUS_PORT),
        ext_proc_sockets=[_RUN / "ext-proc.sock"],
        ads_socket=_RUN / "xds.sock",
    )
    return _owned(gateway, "ConfigMap", "v1", data={"envoy.yaml": text})


def _deployment(gateway: Object, address: str) -> Object:
    metadata = gateway["metadata"]
    named = f"{metadata['namespace']}/{metadata['name']}"
    sockets = {"name": "sockets", "mountPath": str(_RUN)}
    config = {"name": "envoy", "mountPath": "/etc/envoy"}
    sidecar = {
        "name": "epp-client",
        "image": "epp-client",
        "restartPolicy": "Always",
        "args": [
            *("serve", "--kubernetes", "--gateway", named, "--gateway-address", address),
            f"--admin=0.0.0.0:{ADMIN_PORT}",
        ],
        "startupProbe": {
            "httpGet": {"path": "/livez", "port": ADMIN_PORT},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": ADMIN_PORT}, "periodSeconds": 2},
        "volumeMounts": [sockets],
    }
    envoy = {
        "name": "envoy",
        "image": "envoy",
        "args": ["--config-path", "/etc/envoy/envoy.yaml", "--concurrency", "1"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": STATUS_PORT}, "periodSeconds": 1},
        "volumeMounts": [config, sockets],
    }
    pod = {
        "serviceAccountName": f"epp-client-{metadata['name']}",
        "securityContext": {"fsGroup": 65532},
        "initContainers": [sidecar],
        "containers": [envoy],
        "volumes": [
            {"name": "sockets", "emptyDir": {}},
            {"name": "envoy", "configMap": {"name": f"epp-client-{metadata['name']}"}},
        ],
    }
    labels = _labels(gateway)
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return _owned(gateway, "Deployment", "apps/v1", spec=spec)
