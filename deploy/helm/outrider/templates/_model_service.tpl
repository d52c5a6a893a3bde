{{/* What draft and target have in common, which is everything but a word and a port. */}}

{{/* What --model gets. */}}
{{- define "outrider.model" -}}
{{- if eq .source "embedded" -}}
{{- .name -}}
{{- else if eq .source "volume" -}}
/models/{{ required "model.volume.path is the file or folder below /models" .volume.path }}
{{- else if eq .source "download" -}}
/models/{{ .download.file }}
{{- else -}}
hf:{{ required "model.hub.repository is OWNER/NAME" .hub.repository }}{{ with .hub.file }}:{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* JSON of the volume that a model is in; {} for embedded ones. */}}
{{- define "outrider.modelVolume" -}}
{{- if eq .source "volume" -}}
{{- if not .volume.source }}{{ fail "model.volume.source is a volume, for example {persistentVolumeClaim: {claimName: models}}" }}{{ end -}}
{{- toJson .volume.source -}}
{{- else if eq .source "download" -}}
{{- dict "emptyDir" (dict "sizeLimit" .download.sizeLimit) | toJson -}}
{{- else if eq .source "hub" -}}
{{- default (dict "emptyDir" (dict "sizeLimit" .hub.sizeLimit)) .hub.cache | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* (list $ program settings) */}}
{{- define "outrider.modelService.args" -}}
{{- $tls := (first .).Values.tls -}}
{{- $port := include "outrider.port" (index . 1) | int -}}
{{- with last . }}
- {{ printf "--model=%s" (include "outrider.model" .model) | quote }}
- --device={{ .device }}
- --listen=0.0.0.0:{{ $port }}
- --metrics=0.0.0.0:{{ add $port 2000 }}
{{- include "outrider.flags" (list . (list
  "threads" "maxSessions" "kvBytes" "queueDepth" "admissionTimeout" "idleTimeout"
  "maxPromptTokens" "maxOutputTokens" "maxGamma" "grace" "logFormat")) }}
{{- if $tls.enabled }}
{{ include "outrider.serverTlsArgs" $tls.mutual }}
{{- end }}
{{- end }}
{{- end -}}

{{/* (list $ program) */}}
{{- define "outrider.modelService.env" -}}
{{- with (include "outrider.settings" . | fromJson).model -}}
{{- if eq .source "hub" -}}
- name: HF_HOME
  value: /var/cache/huggingface
{{- if .hub.tokenSecret.name }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .hub.tokenSecret.name }}, key: {{ .hub.tokenSecret.key }}}}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* program */}}
{{- define "outrider.modelService.ports" -}}
{{- $port := include "outrider.port" . | int -}}
- {name: grpc, containerPort: {{ $port }}}
- {name: metrics, containerPort: {{ add $port 2000 }}}
{{- end -}}

{{/*
Health of the service by its name: NOT_SERVING until the model is loaded, and again while it ends. A kubelet's gRPC speaks no TLS, so
the pod then asks itself, with its own certificate where one is wanted. (list $ program settings)
*/}}
{{- define "outrider.modelService.probes" -}}
{{- $root := first . -}}
{{- $settings := last . -}}
{{- $port := include "outrider.port" (index . 1) | int -}}
{{- $handler := dict "grpc" (dict "port" $port "service" (printf "outrider.v1.%sService" (title (index . 1)))) -}}
{{- if $root.Values.tls.enabled -}}
  {{- $ask := list "/usr/local/bin/outrider" "health" (printf "https://localhost:%d" $port) -}}
  {{- $handler = dict "exec" (dict "command" (concat $ask (include "outrider.clientTlsArgs" $root | fromYamlArray))) -}}
{{- end -}}
{{- range list "startup" "readiness" "liveness" }}
{{ include "outrider.probe" (list . $handler $settings) }}
{{- end }}
{{- end -}}

{{/* Fetches one file and checks it. Its values are in the environment only, never in the script: (list $ settings). */}}
{{- define "outrider.downloadContainer" -}}
{{- $root := first . -}}
{{- with (last .).model.download -}}
- name: download
  image: {{ include "outrider.curlImage" $root | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/bin/sh, -c]
  args:
    - |
      {{- $root.Files.Get "files/download.sh" | nindent 6 }}
  env:
    - {name: FOLDER, value: /models}
    - {name: FILE, value: {{ .file | quote }}}
    - {name: URL, value: {{ required "model.download.url is where the file is" .url | quote }}}
    - {name: SHA256, value: {{ required "model.download.sha256 is the file's checksum" .sha256 | quote }}}
  resources:
    requests: {cpu: 100m, memory: 32Mi}
    limits: {cpu: "1", memory: 128Mi}
  {{- include "outrider.containerSecurity" $root | nindent 2 }}
  volumeMounts:
    - {name: model, mountPath: /models}
{{- end -}}
{{- end -}}
