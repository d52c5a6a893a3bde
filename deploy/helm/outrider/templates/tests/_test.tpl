{{/* Metadata of a test pod: (list $ name). */}}
{{- define "outrider.testMetadata" -}}
{{- $root := first . -}}
name: {{ include "outrider.fullname" $root }}-test-{{ last . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "outrider.labels" (list $root "test") | nindent 2 }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-delete-policy: before-hook-creation
{{- end -}}

{{/* What both pods have. */}}
{{- define "outrider.testPod" -}}
restartPolicy: Never
{{ include "outrider.podSecurity" . }}
{{- if .Values.tls.enabled }}
volumes:
  - name: tls
    secret:
      secretName: {{ include "outrider.tlsSecret" (list . "coordinator") }}
      defaultMode: 0440
{{- end }}
{{- end -}}

{{/* A container that runs a command of `outrider`: (list $ name arguments). */}}
{{- define "outrider.testContainer" -}}
{{- $root := first . -}}
- name: {{ index . 1 }}
  image: {{ include "outrider.image" (list $root (include "outrider.settings" (list $root "coordinator") | fromJson)) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/usr/local/bin/outrider]
  args:
    {{- concat (last .) (include "outrider.clientTlsArgs" $root | fromYamlArray) | toYaml | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 64Mi}
    limits: {cpu: "1", memory: 512Mi}
  {{- include "outrider.containerSecurity" $root | nindent 2 }}
  {{- if $root.Values.tls.enabled }}
  volumeMounts:
    - {name: tls, mountPath: /etc/outrider/tls, readOnly: true}
  {{- end }}
{{- end -}}
