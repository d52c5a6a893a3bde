{{/* The pod of a Deployment, and the containers in it: one for each program. */}}

{{/* (list $ deployment) */}}
{{- define "outrider.pod" -}}
{{- $root := first . -}}
{{- $name := last . -}}
{{- $settings := include "outrider.settings" . | fromJson -}}
{{- $programs := include "outrider.programsOf" . | fromJsonArray -}}
{{- $seconds := 0 -}}
{{- $volumes := list -}}
{{- range $program := $programs -}}
  {{- $own := include "outrider.settings" (list $root $program) | fromJson -}}
  {{- $needed := add (include "outrider.preStopSeconds" (list $root $own)) (include "outrider.seconds" $own.grace) $own.terminationMarginSeconds -}}
  {{- $seconds = max $seconds $needed -}}
  {{- $volumes = concat $volumes (include "outrider.volumes" (list $root $program $own) | fromYamlArray) -}}
{{- end -}}
{{- /* A pod with two programs has the volumes of `common` twice. */}}
{{- $volumes = uniq $volumes -}}
metadata:
  labels:
    # No versions: a new chart alone restarts nothing.
    {{- include "outrider.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/part-of: outrider
    {{- with $settings.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $settings.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "outrider.podSecurity" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ $seconds }}
  {{- range $key := list "runtimeClassName" "priorityClassName" "nodeSelector" "tolerations" }}
  {{- with get $settings $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "outrider.affinity" (list $root $name $settings) | fromJson }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $settings.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- $own := dict "matchLabels" (include "outrider.selectorLabels" (list $root $name) | fromYaml) }}
    {{- range . }}
    - {{- merge (deepCopy .) (dict "labelSelector" $own) | toYaml | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- if and (ne $name "coordinator") (eq $settings.model.source "download") }}
  initContainers:
    {{- include "outrider.downloadContainer" (list $root $settings) | nindent 4 }}
  {{- end }}
  containers:
    {{- range $programs }}
    {{- include "outrider.container" (list $root .) | nindent 4 }}
    {{- end }}
  {{- with $volumes }}
  volumes:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The workload's own affinity, and for a draft the preset: (list $ deployment settings). */}}
{{- define "outrider.affinity" -}}
{{- $root := first . -}}
{{- $near := $root.Values.placement.draftNear -}}
{{- $preset := dict -}}
{{- if and (eq (index . 1) "draft") (ne $near "none") -}}
  {{- $labels := include "outrider.selectorLabels" (list $root (include "outrider.podOf" (list $root "coordinator"))) | fromYaml -}}
  {{- $term := dict "topologyKey" $root.Values.placement.topologyKey "labelSelector" (dict "matchLabels" $labels) -}}
  {{- if eq $near "required" -}}
    {{- $_ := set $preset "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
  {{- else -}}
    {{- $_ := set $preset "podAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
  {{- end -}}
{{- end -}}
{{- include "outrider.merged" (list $preset (last .).affinity) -}}
{{- end -}}

{{/* A program's container: (list $ program). */}}
{{- define "outrider.container" -}}
{{- $root := first . -}}
{{- $program := last . -}}
{{- $settings := include "outrider.settings" . | fromJson -}}
{{- $isModel := ne $program "coordinator" -}}
{{- $kind := $isModel | ternary "modelService" "coordinator" -}}
{{- $env := concat (include "outrider.otelEnv" . | fromYamlArray) (include (printf "outrider.%s.env" $kind) . | fromYamlArray) $settings.extraEnv -}}
- name: {{ $program }}
  image: {{ include "outrider.image" (list $root $settings) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [{{ $isModel | ternary (printf "/usr/local/bin/%s-svc" $program) "/usr/local/bin/outrider" }}]
  args:
    {{- include (printf "outrider.%s.args" $kind) (list $root $program $settings) | trim | nindent 4 }}
    {{- range $settings.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with $env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- include (printf "outrider.%s.ports" $kind) $program | nindent 4 }}
  {{- include (printf "outrider.%s.probes" $kind) (list $root $program $settings) | nindent 2 }}
  {{- with include "outrider.preStopSeconds" (list $root $settings) | int64 }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ . }}
  {{- end }}
  resources:
    {{- include "outrider.resources" $settings | nindent 4 }}
  {{- include "outrider.containerSecurity" $root | nindent 2 }}
  {{- with include "outrider.mounts" (list $root $program $settings) | fromYamlArray }}
  volumeMounts:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Flags of settings that are set: (list settings names). maxSessions: 32 becomes --max-sessions=32. */}}
{{- define "outrider.flags" -}}
{{- $settings := first . -}}
{{- range $name := last . }}
{{- $value := get $settings $name }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{- if ne (toString $value) "" }}
- {{ printf "--%s=%v" (kebabcase $name) $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A GPU is one more limit. */}}
{{- define "outrider.resources" -}}
{{- $gpu := dict -}}
{{- if .gpu.count -}}
  {{- $gpu = dict "limits" (dict .gpu.resource (.gpu.count | int64)) -}}
{{- end -}}
{{- include "outrider.merged" (list .resources $gpu) | fromJson | toYaml -}}
{{- end -}}

{{/* One probe: (list kind handler settings). */}}
{{- define "outrider.probe" -}}
{{ first . }}Probe:
  {{- merge (deepCopy (index . 1)) (get (last .).probes (first .)) | toYaml | nindent 2 }}
{{- end -}}

{{/* Volumes of a program, named after it: (list $ program settings). */}}
{{- define "outrider.volumes" -}}
{{- $root := first . -}}
{{- $program := index . 1 -}}
{{- $settings := last . -}}
{{- if $root.Values.tls.enabled }}
- name: {{ $program }}-tls
  secret:
    secretName: {{ include "outrider.tlsSecret" (list $root $program) }}
    defaultMode: 0440
{{- end }}
{{- if eq $program "coordinator" }}
{{- with $settings.apiKeys }}
{{- if .secretName }}
- name: api-keys
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - {key: {{ .key | quote }}, path: keys}
{{- end }}
{{- end }}
{{- else }}
{{- with include "outrider.modelVolume" $settings.model | fromJson }}
- name: model
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $settings.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where they are: (list $ program settings). */}}
{{- define "outrider.mounts" -}}
{{- $settings := last . -}}
{{- if (first .).Values.tls.enabled }}
- name: {{ index . 1 }}-tls
  mountPath: /etc/outrider/tls
  readOnly: true
{{- end }}
{{- if eq (index . 1) "coordinator" }}
{{- if $settings.apiKeys.secretName }}
- name: api-keys
  mountPath: /etc/outrider/api-keys
  readOnly: true
{{- end }}
{{- else if eq $settings.model.source "hub" }}
- name: model
  mountPath: /var/cache/huggingface
{{- else if ne $settings.model.source "embedded" }}
- name: model
  mountPath: /models
  readOnly: true
{{- end }}
{{- with $settings.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
