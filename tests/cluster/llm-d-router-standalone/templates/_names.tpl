{{- define "llm-d-router.proxy.extProcHost" -}}
{{- if eq .Values.router.proxy.mode "service" -}}
{{ .Release.Name }}-epp.{{ .Release.Namespace }}.svc.{{ .Values.router.clusterDomain }}
{{- else -}}
127.0.0.1
{{- end -}}
{{- end -}}

{{- define "llm-d-router.proxy.failOpen" -}}
{{ .Values.router.proxy.failOpen }}
{{- end -}}

{{- define "llm-d-router.standaloneEndpointTargetPorts" -}}
{{- range $i, $port := .Values.router.modelServers.targetPorts }}{{ if $i }},{{ end }}{{ $port.number }}{{ end -}}
{{- end -}}

{{- define "stand-in.proxy" -}}
{{- omit (mergeOverwrite (deepCopy .Values.router.proxy.presets.envoy) .Values.router.proxy) "presets" | toYaml -}}
{{- end -}}

{{- define "stand-in.container" -}}
{{- $proxy := include "stand-in.proxy" . | fromYaml -}}
{{- $fields := list "name" "image" "args" "env" "ports" "livenessProbe" "readinessProbe" "startupProbe" "securityContext" "resources" "volumeMounts" -}}
{{- $container := dict "command" (list $proxy.command) "imagePullPolicy" "IfNotPresent" -}}
{{- range $field := $fields }}{{ with index $proxy $field }}{{ $_ := set $container $field . }}{{ end }}{{ end -}}
{{- toYaml (list $container) -}}
{{- end -}}

{{- define "stand-in.volumes" -}}
{{- $proxy := include "stand-in.proxy" . | fromYaml -}}
{{- tpl (toYaml $proxy.volumes) . -}}
{{- end -}}
