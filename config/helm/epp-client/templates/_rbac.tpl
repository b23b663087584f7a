{{- /* The rights, as config/kubernetes/components/{sidecar,status}/rbac.yaml have them; a test compares them. */}}

{{- define "epp-client.readRules" -}}
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}

{{- define "epp-client.statusRules" -}}
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools/status]
  verbs: [patch]
# Needed after a conflict, when another controller has written the status.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch]
{{- end }}

{{- define "epp-client.leaseRules" -}}
# A name cannot restrict `create`, as RBAC does not know the name of a new object.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "epp-client.lease" . }}]
  verbs: [get, update]
{{- end }}

{{- /* A role and its binding. Takes `root`, `name`, `rules` and, unless it is for the whole cluster, `namespace`. */}}
{{- define "epp-client.grant" -}}
{{- $kind := ternary "Role" "ClusterRole" (hasKey . "namespace") -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "epp-client.labels" .root | nindent 4 }}
rules:
{{ .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "epp-client.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ include "epp-client.account" .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end }}

{{- /* What serving a Gateway needs in each namespace: the rules of the component but for its Lease. */}}
{{- define "epp-client.gatewayRules" -}}
{{- $rules := list }}
{{- range (include "epp-client.rulesOf" (dict "root" . "file" "files/gateway-rbac.yaml" "kind" "Role") | fromYamlArray) }}
{{- if not (has "leases" .resources) }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- toYaml $rules }}
{{- end }}

{{- define "epp-client.secretRules" -}}
{{- with .Values.serveGateway.secrets -}}
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
  {{- toYaml . | nindent 2 }}
  verbs: [list, watch]
{{- end }}
{{- end }}
