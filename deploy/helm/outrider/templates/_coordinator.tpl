{{/* What is the coordinator's own. */}}

{{/* (list $ program settings) */}}
{{- define "outrider.coordinator.args" -}}
{{- $root := first . -}}
{{- with last . }}
- serve
- --http=0.0.0.0:8080
- --grpc=0.0.0.0:8090
{{- if include "outrider.isSidecar" $root }}
- --target={{ include "outrider.scheme" $root }}://127.0.0.1:{{ include "outrider.port" "target" }}
{{- else }}
- --target={{ include "outrider.url" (list $root "target") }}
{{- end }}
{{- if include "outrider.hasDraft" $root }}
- --draft={{ include "outrider.url" (list $root "draft") }}
{{- else }}
- --ar
{{- end }}
{{- if include "outrider.hasDraft" $root }}
{{- include "outrider.flags" (list . (list "gamma" "anticipate")) }}
{{- end }}
{{- include "outrider.flags" (list . (list
  "maxConcurrent" "requestTimeout" "draftDeadline" "targetDeadline" "headerTimeout" "maxBodyBytes" "traceCycles"
  "grace" "logFormat")) }}
{{- if .allowInexactFailover }}
- --allow-inexact-failover
{{- end }}
{{- if .apiKeys.secretName }}
- --api-key-file=/etc/outrider/api-keys/keys
{{- end }}
{{- include "outrider.clientTlsArgs" $root }}
{{- if $root.Values.tls.enabled }}
{{ include "outrider.serverTlsArgs" .tls.mutual }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "outrider.coordinator.env" -}}{{- end -}}

{{- define "outrider.coordinator.ports" -}}
- {name: http, containerPort: 8080}
- {name: grpc-api, containerPort: 8090}
{{- end -}}

{{/* A kubelet asks over HTTPS without a look at the certificate, but has none to show: (list $ program settings). */}}
{{- define "outrider.coordinator.probes" -}}
{{- $tls := (first .).Values.tls.enabled -}}
{{- $settings := last . -}}
{{- range $kind, $path := dict "readiness" "/readyz" "liveness" "/healthz" }}
{{- $handler := dict "httpGet" (dict "path" $path "port" "http" "scheme" ($tls | ternary "HTTPS" "HTTP")) }}
{{- if and $tls $settings.tls.mutual }}
{{- $handler = dict "tcpSocket" (dict "port" "http") }}
{{- end }}
{{ include "outrider.probe" (list $kind $handler $settings) }}
{{- end }}
{{- end -}}
