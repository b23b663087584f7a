"""Values of the Helm chart for tests: another one than the default for each."""

from copy import deepcopy
from typing import Any

from testbed.cluster.api import Object

SOME: dict[str, Any] = {
    "mode": "sidecar",
    "pools": [
        {"name": "qwen", "namespace": "models", "requestMode": "headers", "responseMode": "skip"}
    ],
    "routes": [{"prefix": "/chat", "pool": "inference/llama"}],
    "namespaces": ["models"],
    "allNamespaces": True,
    "controller.name": "example.com/gateway",
    "controller.gatewayClass.create": False,
    "controller.gatewayClass.name": "inference",
    "controller.gatewayReplicas": 3,
    "controller.extraArgs": ["--log-level=debug"],
    "controller.extraEnv": [{"name": "A", "value": "b"}],
    "controller.extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    "controller.resources": {"limits": {"memory": "1Gi"}},
    "serveGateway.enabled": True,
    "serveGateway.ports": [80, 443],
    "serveGateway.secrets": ["tls"],
    "serveGateway.addresses": ["gateway.example.com"],
    "image.repository": "registry.example.com/epp-client",
    "image.tag": "9.9.9",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "fullnameOverride": "edge",
    "commonLabels": {"team": "a"},
    "serviceAccount.create": False,
    "serviceAccount.name": "other",
    "serviceAccount.annotations": {"a": "b"},
    "rbac.create": False,
    "status.enabled": True,
    "status.gateway": "infra/edge",
    "status.controllerName": "example.com/gateway",
    "pickerTls.mode": "verified",
    "pickerTls.caConfigMap": "ca",
    "pickerTls.clientSecret": "client",
    "sidecar.workers": 3,
    "sidecar.maxRetainedTotal": 1_000_000_000,
    "sidecar.drainTimeout": 10,
    "sidecar.extraArgs": ["--log-level=debug"],
    "sidecar.extraEnv": [{"name": "EPP_CLIENT_DRAIN_GRACE", "value": "9"}],
    "sidecar.extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    "sidecar.resources": {"limits": {"memory": "2Gi"}},
    "hold.resources": {"limits": {"memory": "128Mi"}},
    "envoy.image": "envoyproxy/envoy:v1.39.3",
    "envoy.concurrency": 4,
    "envoy.logLevel": "info",
    "envoy.tlsSecret": "edge-tls",
    "envoy.configArgs": ["--idle-timeout=60"],
    "envoy.configResources": {"limits": {"memory": "512Mi"}},
    "envoy.bootstrap": "static_resources: {}\n",
    "envoy.drainMinSeconds": 1,
    "envoy.drainMaxSeconds": 60,
    "envoy.extraArgs": ["--component-log-level", "ext_proc:debug"],
    "envoy.extraEnv": [{"name": "A", "value": "b"}],
    "envoy.extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    "envoy.resources": {"limits": {"memory": "2Gi"}},
    "service.type": "LoadBalancer",
    "service.port": 8000,
    "service.annotations": {"a": "b"},
    "service.extraSpec": {"externalTrafficPolicy": "Local"},
    "replicas": 5,
    "autoscaling.enabled": False,
    "autoscaling.minReplicas": 3,
    "autoscaling.maxReplicas": 20,
    "autoscaling.targetCPU": 50,
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": "10%",
    "networkPolicy.enabled": False,
    "networkPolicy.monitoringNamespace": "prometheus",
    "networkPolicy.extraIngress": [{"ports": [{"port": 1}]}],
    "networkPolicy.extraEgress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
    "podMonitor.enabled": True,
    "podMonitor.labels": {"release": "prometheus"},
    "podMonitor.interval": "15s",
    "podMonitor.matchLabels": {"app": "edge-envoy"},
    "prometheusRule.enabled": True,
    "prometheusRule.labels": {"release": "prometheus"},
    "prometheusRule.alertLabels": {"team": "inference", "severity": "page"},
    "prometheusRule.runbookUrl": "https://wiki.example.com/epp-client",
    "prometheusRule.objective": 0.9995,
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpread": False,
    "topologySpreadConstraints": [
        {"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "extraVolumes": [{"name": "v", "emptyDir": {}}],
}
"""Another value than the default for every value of the chart."""
CONTROLLER: Object = {"mode": "controller", "pools": []}
SERVES_GATEWAY: Object = {"serveGateway": {"enabled": True}, "pools": []}
WITH: dict[str, Object] = {
    **{name: CONTROLLER for name in SOME if name.startswith("controller.")},
    **{name: SERVES_GATEWAY for name in SOME if name.startswith("serveGateway.")},
    "replicas": {"autoscaling": {"enabled": False}},
    "status.gateway": {"status": {"enabled": True}},
    "status.controllerName": {"status": {"enabled": True}},
    "pickerTls.caConfigMap": {"pickerTls": {"mode": "verified"}},
    "podMonitor.labels": {"podMonitor": {"enabled": True}},
    "podMonitor.interval": {"podMonitor": {"enabled": True}},
    "podMonitor.matchLabels": {
        "mode": "sidecar",
        "podMonitor": {"enabled": True, "matchLabels": {"app": "other"}},
    },
    **{
        name: {"prometheusRule": {"enabled": True}}
        for name in SOME
        if name.startswith("prometheusRule.") and name != "prometheusRule.enabled"
    },
    "envoy.bootstrap": {"pools": []},
}
"""What a value needs to have an effect."""
INSTEAD_OF_POOLS = {"envoy.bootstrap", "serveGateway.enabled"}


def merged(*parts: Object) -> Object:
    """Values, the later ones over the earlier ones, as helm merges them."""
    whole: Object = {}
    for part in parts:
        for key, value in deepcopy(part).items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def nested(name: str, value: Any) -> Object:
    """The values that `--set name=value` stands for."""
    for part in reversed(name.split(".")):
        value = {part: value}
    nested: Object = value
    return nested
