{{- /* What the sidecar adds to the Pod of an Envoy. config/kubernetes/components/sidecar/patch.yaml says why each
part is there; a test compares the two. */}}

{{- define "epp-client.podSecurityContext" -}}
fsGroup: 65532
{{- end }}

{{- define "epp-client.securityContext" -}}
runAsUser: 65532
runAsGroup: 65532
runAsNonRoot: true
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop:
  - ALL
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "epp-client.imageFields" -}}
image: {{ include "epp-client.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "epp-client.initContainers" -}}
- name: epp-client-hold
  {{- include "epp-client.imageFields" . | nindent 2 }}
  restartPolicy: Always
  args:
  - hold
  - --socket=/run/epp-client/hold.sock
  resources:
    {{- toYaml .Values.hold.resources | nindent 4 }}
  securityContext:
    {{- include "epp-client.securityContext" . | nindent 4 }}
  volumeMounts:
  - name: epp-client-sockets
    mountPath: /run/epp-client
- name: epp-client
  {{- include "epp-client.imageFields" . | nindent 2 }}
  restartPolicy: Always
  args:
  {{- include "epp-client.serveArgs" . | nindent 2 }}
  env:
  - name: NAMESPACE
    valueFrom:
      fieldRef:
        fieldPath: metadata.namespace
  {{- with .Values.sidecar.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  ports:
  - name: epp-admin
    containerPort: 9902
  startupProbe:
    httpGet:
      path: /livez
      port: epp-admin
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: epp-admin
    periodSeconds: 5
    timeoutSeconds: 2
    failureThreshold: 2
  livenessProbe:
    httpGet:
      path: /livez
      port: epp-admin
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  resources:
    {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext:
    {{- include "epp-client.securityContext" . | nindent 4 }}
  volumeMounts:
  - name: epp-client-sockets
    mountPath: /run/epp-client
  - name: epp-client-token
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- if .Values.pickerTls.caConfigMap }}
  - name: epp-client-picker-ca
    mountPath: /etc/epp-client/picker-ca
    readOnly: true
  {{- end }}
  {{- if .Values.pickerTls.clientSecret }}
  - name: epp-client-picker-cert
    mountPath: /etc/epp-client/picker-cert
    readOnly: true
  {{- end }}
  {{- with .Values.sidecar.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "epp-client.serveArgs" -}}
- serve
- --kubernetes
{{- if .Values.namespaces }}
{{- range .Values.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- else if not .Values.allNamespaces }}
- --namespace=$(NAMESPACE)
{{- end }}
- --admin=0.0.0.0:9902
- --drain-timeout={{ .Values.sidecar.drainTimeout }}
- --hold=/run/epp-client/hold.sock
- --last-known=/run/epp-client/last-known.json
- --max-retained-total={{ .Values.sidecar.maxRetainedTotal | int64 }}
{{- if ne (int .Values.sidecar.workers) 1 }}
- --workers={{ .Values.sidecar.workers }}
{{- end }}
{{- if ne .Values.pickerTls.mode "unverified" }}
- --picker-tls={{ .Values.pickerTls.mode }}
{{- end }}
{{- if .Values.pickerTls.caConfigMap }}
- --picker-ca=/etc/epp-client/picker-ca/ca.crt
{{- end }}
{{- if .Values.pickerTls.clientSecret }}
- --picker-cert=/etc/epp-client/picker-cert/tls.crt
- --picker-key=/etc/epp-client/picker-cert/tls.key
{{- end }}
{{- if or .Values.status.enabled .Values.serveGateway.enabled }}
{{- if .Values.status.gateway }}
- --gateway={{ .Values.status.gateway }}
{{- else }}
- --gateway=$(NAMESPACE)/{{ include "epp-client.fullname" . }}
{{- end }}
{{- if not .Values.serveGateway.enabled }}
- --no-serve-gateway
{{- end }}
{{- range .Values.serveGateway.addresses }}
- --gateway-address={{ . }}
{{- end }}
{{- with .Values.status.controllerName }}
- --controller-name={{ . }}
{{- end }}
{{- end }}
{{- with .Values.sidecar.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "epp-client.volumes" -}}
- name: epp-client-sockets
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: epp-client-token
  projected:
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3607
    - configMap:
        name: kube-root-ca.crt
        items:
        - key: ca.crt
          path: ca.crt
    - downwardAPI:
        items:
        - path: namespace
          fieldRef:
            fieldPath: metadata.namespace
{{- with .Values.pickerTls.caConfigMap }}
- name: epp-client-picker-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.pickerTls.clientSecret }}
- name: epp-client-picker-cert
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
