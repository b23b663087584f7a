{{- /* The init container that writes Envoy's bootstrap: `epp-client envoy-config` of the sidecar's own version. */}}

{{- define "epp-client.configContainer" -}}
- name: envoy-config
  {{- include "epp-client.imageFields" . | nindent 2 }}
  args:
  - envoy-config
  {{- if .Values.serveGateway.enabled }}
  - --gateway
  {{- end }}
  {{- range .Values.pools }}
  - --pool={{ .namespace | default $.Release.Namespace }}/{{ .name }}{{ with compact (list .requestMode .responseMode) }}={{ join "+" . }}{{ end }}
  {{- end }}
  {{- range .Values.routes }}
  - --route={{ .prefix }}={{ .pool }}
  {{- end }}
  - --status-listen=0.0.0.0:9903
  {{- if ne (int .Values.sidecar.workers) 1 }}
  - --workers={{ .Values.sidecar.workers }}
  {{- end }}
  {{- if .Values.envoy.tlsSecret }}
  - --tls-cert=/etc/envoy-tls/tls.crt
  - --tls-key=/etc/envoy-tls/tls.key
  {{- end }}
  {{- with .Values.envoy.configArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  - --output=/run/envoy/envoy.yaml
  resources:
    {{- toYaml .Values.envoy.configResources | nindent 4 }}
  securityContext:
    {{- include "epp-client.securityContext" . | nindent 4 }}
  volumeMounts:
  - name: envoy-bootstrap
    mountPath: /run/envoy
{{- end }}
