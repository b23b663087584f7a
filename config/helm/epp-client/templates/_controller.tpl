{{- /* Mode `controller`. The rules are read from copies of the files of config/kubernetes. */}}

{{- /* The rules of the role of a kind in a file. Takes `root`, `file` and `kind`. */}}
{{- define "epp-client.rulesOf" -}}
{{- $kind := .kind }}
{{- range splitList "\n---\n" (.root.Files.Get .file) }}
{{- $object := fromYaml . }}
{{- if eq $object.kind $kind }}
{{- toYaml $object.rules }}
{{- end }}
{{- end }}
{{- end }}

{{- /* As `identity_of` of epp_client/controller/app.py names the Lease. */}}
{{- define "epp-client.controllerLease" -}}
{{- $name := "epp-client-controller" -}}
{{- with .Values.controller.name -}}
{{- if ne . "epp-client.dev/gateway" -}}
{{- $name = printf "epp-client-controller-%s" (. | lower | replace "/" "-" | replace "." "-") -}}
{{- end -}}
{{- end -}}
{{- if gt (len $name) 63 -}}
{{- printf "%s-%s" (regexReplaceAll "[-.]+$" (trunc 54 $name) "") (sha256sum $name | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{- define "epp-client.controllerLeaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "epp-client.controllerLease" . }}]
  verbs: [get, update]
{{- end }}

{{- /* The name that is in the kustomization: the controller changes this one binding of the cluster. */}}
{{- define "epp-client.dataPlanes" -}}
epp-client-gateway
{{- end }}
