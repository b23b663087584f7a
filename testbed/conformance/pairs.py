"""The objects that serve one Gateway without a controller: a Deployment of Envoy and the sidecar, a Service
and rights. Nothing is sent from here."""

import hashlib

from testbed.cluster.api import Object

ADMIN_PORT = 9902
ENVOY_ADMIN_PORT = 9901


def name_of(gateway: Object) -> str:
    """The name of the objects of a Gateway: that of a Service has room for 63 characters."""
    name = f"epp-client-{gateway['metadata']['name']}"
    if len(name) <= 63:
        return name
    return f"{name[:54]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


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
            "name": name_of(gateway),
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
    name, namespace = name_of(gateway), metadata["namespace"]
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
    return [account, binding, _deployment(gateway, address)]


def _deployment(gateway: Object, address: str) -> Object:
    metadata = gateway["metadata"]
    named = f"{metadata['namespace']}/{metadata['name']}"
    sockets = {"name": "sockets", "mountPath": "/run/epp-client"}
    config = {"name": "envoy", "mountPath": "/etc/envoy"}
    bootstrap = {
        "name": "bootstrap",
        "image": "epp-client",
        "args": ["envoy-config", "--gateway", "--output", "/etc/envoy/envoy.yaml"],
        "volumeMounts": [config],
    }
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
        "readinessProbe": {
            "exec": {"command": ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{ENVOY_ADMIN_PORT}"]},
            "periodSeconds": 2,
        },
        "volumeMounts": [config, sockets],
    }
    pod = {
        "serviceAccountName": name_of(gateway),
        "securityContext": {"fsGroup": 65532},
        "initContainers": [bootstrap, sidecar],
        "containers": [envoy],
        "volumes": [{"name": "sockets", "emptyDir": {}}, {"name": "envoy", "emptyDir": {}}],
    }
    labels = _labels(gateway)
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return _owned(gateway, "Deployment", "apps/v1", spec=spec)
