{{/* Parts of network policies. */}}

{{/* A rule: (list direction peers ports). No peers are anybody. Ports are JSON: protocol and port. */}}
{{- define "outrider.rule" -}}
- ports:
    {{- toYaml (last .) | nindent 4 }}
  {{- with index . 1 }}
  {{ first $ }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* JSON of the peers that are the pods of programs: (list $ programs…). */}}
{{- define "outrider.pods" -}}
{{- $root := first . -}}
{{- $peers := list -}}
{{- range $program := rest . -}}
  {{- $labels := include "outrider.selectorLabels" (list $root (include "outrider.podOf" (list $root $program))) | fromYaml -}}
  {{- $peers = append $peers (dict "podSelector" (dict "matchLabels" $labels)) -}}
{{- end -}}
{{- uniq $peers | toJson -}}
{{- end -}}

{{/* JSON of TCP ports. */}}
{{- define "outrider.tcp" -}}
{{- $ports := list -}}
{{- range . }}{{ $ports = append $ports (dict "protocol" "TCP" "port" (int .)) }}{{ end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* Who asks a program: (list $ program). */}}
{{- define "outrider.ingressRules" -}}
{{- $root := first . -}}
{{- with $root.Values.networkPolicy -}}
{{- if eq (last $) "coordinator" }}
{{- $peers := .coordinatorFrom }}
{{- if $peers }}{{ $peers = concat $peers (include "outrider.pods" (list $root "test") | fromJsonArray) }}{{ end }}
{{ include "outrider.rule" (list "from" $peers (include "outrider.tcp" (list 8080 8090) | fromJsonArray)) }}
{{- else }}
{{- $port := include "outrider.port" (last $) | int }}
{{- $peers := concat (include "outrider.pods" (list $root "coordinator" "test") | fromJsonArray) .modelServicesFrom }}
{{ include "outrider.rule" (list "from" $peers (include "outrider.tcp" (list $port) | fromJsonArray)) }}
{{- with .metricsFrom }}
{{ include "outrider.rule" (list "from" . (include "outrider.tcp" (list (add $port 2000)) | fromJsonArray)) }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Whom a program asks: (list $ program), where the program may be `test`. */}}
{{- define "outrider.egressRules" -}}
{{- $root := first . -}}
{{- $program := last . -}}
{{- range get (dict "test" (list "draft" "target" "coordinator") "coordinator" (list "draft" "target")) $program | default list }}
{{- /* A sidecar's target is in the same pod. */}}
{{- if and (has . (include "outrider.programs" $root | fromJsonArray)) (ne (include "outrider.podOf" $) (include "outrider.podOf" (list $root .))) }}
{{- $ports := ternary (list 8080 8090) (list (include "outrider.port" .)) (eq . "coordinator") }}
{{ include "outrider.rule" (list "to" (include "outrider.pods" (list $root .) | fromJsonArray) (include "outrider.tcp" $ports | fromJsonArray)) }}
{{- end }}
{{- end }}
{{- if and $root.Values.otel.endpoint (ne $program "test") }}
{{ include "outrider.rule" (list "to" $root.Values.networkPolicy.otelTo (include "outrider.tcp" (list (include "outrider.otelPort" $root)) | fromJsonArray)) }}
{{- end }}
{{- if has $program (list "draft" "target") }}
{{- if has (include "outrider.settings" . | fromJson).model.source (list "download" "hub") }}
{{ include "outrider.rule" (list "to" $root.Values.networkPolicy.modelsTo (include "outrider.tcp" $root.Values.networkPolicy.modelsPorts | fromJsonArray)) }}
{{- end }}
{{- end }}
{{- end -}}
