{{- define "epp-client.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name -}}
{{- end }}

{{- define "epp-client.account" -}}
{{- .Values.serviceAccount.name | default (include "epp-client.fullname" .) -}}
{{- end }}

{{- /* Cluster-scoped objects have the namespace in their name: two releases must not share them. */}}
{{- define "epp-client.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "epp-client.account" .) -}}
{{- end }}

{{- define "epp-client.selectorLabels" -}}
app.kubernetes.io/name: {{ ternary "epp-client-controller" "inference-gateway" (eq .Values.mode "controller") }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "epp-client.labels" -}}
{{ include "epp-client.selectorLabels" . }}
app.kubernetes.io/part-of: epp-client
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "epp-client.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The namespaces that are served, as a YAML list under `of`. None: all. */}}
{{- define "epp-client.namespaces" -}}
of:
{{- if not .Values.allNamespaces }}
{{- range .Values.namespaces | default (list .Release.Namespace) }}
- {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* namespace/name of each pool, as a YAML list under `of`. */}}
{{- define "epp-client.pools" -}}
of:
{{- range .Values.pools }}
- {{ printf "%s/%s" (.namespace | default $.Release.Namespace) .name }}
{{- end }}
{{- end }}

{{- /* namespace/name of the Gateway whose status is reported. */}}
{{- define "epp-client.gateway" -}}
{{- .Values.status.gateway | default (printf "%s/%s" .Release.Namespace (include "epp-client.fullname" .)) -}}
{{- end }}

{{- /* As `lease_name` of epp_client/kubernetes/status/lease.py. */}}
{{- define "epp-client.lease" -}}
{{- $name := printf "epp-client.%s" (include "epp-client.gateway" . | replace "/" ".") -}}
{{- $controller := .Values.status.controllerName -}}
{{- if or (not $controller) (eq $controller "epp-client.dev/gateway") -}}
{{- $name -}}
{{- else -}}
{{- printf "%s.%s" $name (printf "%s %s" $name $controller | sha256sum | trunc 10) -}}
{{- end -}}
{{- end }}
