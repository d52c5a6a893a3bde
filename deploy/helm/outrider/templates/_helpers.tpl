{{/* ---- names and labels ---- */}}

{{/* The release's name with the chart's, short enough for `-coordinator` and others behind it. */}}
{{- define "outrider.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "outrider.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "outrider.fullname" .) "default") .Values.serviceAccount.name -}}
{{- end -}}

{{/* Labels by which things of a component are found: (list $ component). */}}
{{- define "outrider.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* All labels: (list $ component). */}}
{{- define "outrider.labels" -}}
{{- $root := first . -}}
{{ include "outrider.selectorLabels" . }}
app.kubernetes.io/part-of: outrider
app.kubernetes.io/version: {{ default $root.Chart.AppVersion $root.Values.image.tag | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* Metadata of whatever belongs to a component and has its name: (list $ component). */}}
{{- define "outrider.metadata" -}}
name: {{ include "outrider.fullname" (first .) }}-{{ last . }}
namespace: {{ (first .).Release.Namespace }}
labels:
  {{- include "outrider.labels" . | nindent 2 }}
{{- end -}}

{{/* ---- which workloads there are ---- */}}

{{/* "true" where a draft is deployed. */}}
{{- define "outrider.hasDraft" -}}
{{- if and .Values.draft.enabled (not .Values.coordinator.ar) }}true{{ end -}}
{{- end -}}

{{/* "true" where the coordinator is a container in the target's pods. */}}
{{- define "outrider.isSidecar" -}}
{{- if eq .Values.coordinator.placement "sidecar" }}true{{ end -}}
{{- end -}}

{{/* JSON array of the Deployments. */}}
{{- define "outrider.deployments" -}}
{{- $names := list "target" -}}
{{- if include "outrider.hasDraft" . }}{{ $names = prepend $names "draft" }}{{ end -}}
{{- if not (include "outrider.isSidecar" .) }}{{ $names = append $names "coordinator" }}{{ end -}}
{{- toJson $names -}}
{{- end -}}

{{/* JSON array of the programs: what Services, certificates and metrics are of. */}}
{{- define "outrider.programs" -}}
{{- ternary (list "target" "coordinator") (list "draft" "target" "coordinator") (empty (include "outrider.hasDraft" .)) | toJson -}}
{{- end -}}

{{/* JSON array of the programs in a Deployment's pod: (list $ deployment). */}}
{{- define "outrider.programsOf" -}}
{{- $names := list (last .) -}}
{{- if and (eq (last .) "target") (include "outrider.isSidecar" (first .)) }}{{ $names = append $names "coordinator" }}{{ end -}}
{{- toJson $names -}}
{{- end -}}

{{/* The component whose pods a program is in: (list $ program). */}}
{{- define "outrider.podOf" -}}
{{- if and (eq (last .) "coordinator") (include "outrider.isSidecar" (first .)) }}target{{ else }}{{ last . }}{{ end -}}
{{- end -}}

{{/* ---- settings ---- */}}

{{/* JSON of one map laid over another: (list below above). Lists are replaced, null removes. */}}
{{- define "outrider.merged" -}}
{{- $merged := deepCopy (first .) -}}
{{- range $key, $above := last . -}}
  {{- $below := get $merged $key -}}
  {{- if kindIs "invalid" $above -}}
    {{- $_ := unset $merged $key -}}
  {{- else if and (kindIs "map" $below) (kindIs "map" $above) -}}
    {{- $_ := set $merged $key (include "outrider.merged" (list $below $above) | fromJson) -}}
  {{- else -}}
    {{- $_ := set $merged $key $above -}}
  {{- end -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{/* JSON of all settings of a program, with what is common: (list $ program). */}}
{{- define "outrider.settings" -}}
{{- $values := (first .).Values -}}
{{- $base := $values.common -}}
{{- if ne (last .) "coordinator" -}}
  {{- $base = include "outrider.merged" (list $base $values.modelServices) | fromJson -}}
{{- end -}}
{{- include "outrider.merged" (list $base (get $values (last .))) -}}
{{- end -}}

{{/* Whole seconds, rounded up, of a duration such as 1m30s or 500ms. */}}
{{- define "outrider.seconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $milliseconds := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
  {{- $milliseconds = add $milliseconds (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* Kubernetes' version. */}}
{{- define "outrider.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersion -}}
{{- end -}}

{{/* Seconds of the preStop sleep, 0 where there is none: (list $ settings). */}}
{{- define "outrider.preStopSeconds" -}}
{{- semverCompare ">=1.30.0-0" (include "outrider.kubeVersion" (first .)) | ternary (last .).preStop.sleepSeconds 0 | int64 -}}
{{- end -}}

{{/* ---- images ---- */}}

{{/* A reference: (list $ repository tag digest). */}}
{{- define "outrider.reference" -}}
{{- $root := first . -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{- index . 1 -}}
{{- if last . }}@{{ last . }}{{ else }}:{{ index . 2 }}{{ end -}}
{{- end -}}

{{/* The image of a program: (list $ settings). */}}
{{- define "outrider.image" -}}
{{- $root := first . -}}
{{- $settings := last . -}}
{{- $suffix := hasPrefix "cuda" (default "" $settings.device) | ternary $root.Values.image.cudaSuffix "" -}}
{{- $tag := printf "%s%s" (default $root.Chart.AppVersion $root.Values.image.tag) $suffix -}}
{{- include "outrider.reference" (list $root $root.Values.image.repository (default $tag $settings.image.tag) $settings.image.digest) -}}
{{- end -}}

{{- define "outrider.curlImage" -}}
{{- include "outrider.reference" (list . .Values.curl.repository .Values.curl.tag "") -}}
{{- end -}}

{{/* ---- security ---- */}}

{{/* What the Pod Security Standard `restricted` asks of a pod, and no token of the API. */}}
{{- define "outrider.podSecurity" -}}
serviceAccountName: {{ include "outrider.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The same of a container. */}}
{{- define "outrider.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* ---- addresses and TLS ---- */}}

{{/* The port of a program that others talk to. */}}
{{- define "outrider.port" -}}
{{- get (dict "draft" 7101 "target" 7102 "coordinator" 8080) . -}}
{{- end -}}

{{/* The full name of a program's Service, as its certificate must have it: (list $ program). */}}
{{- define "outrider.host" -}}
{{- $root := first . -}}
{{- include "outrider.fullname" $root }}-{{ last . }}.{{ $root.Release.Namespace }}.svc
{{- end -}}

{{- define "outrider.scheme" -}}
{{- .Values.tls.enabled | ternary "https" "http" -}}
{{- end -}}

{{/* The URL of a model service: (list $ program). */}}
{{- define "outrider.url" -}}
{{- include "outrider.scheme" (first .) }}://{{ include "outrider.host" . }}:{{ include "outrider.port" (last .) }}
{{- end -}}

{{/* Fails where certificates are asked for and nothing is encrypted. */}}
{{- define "outrider.checkTls" -}}
{{- if and (not .Values.tls.enabled) (or .Values.tls.mutual .Values.tls.certManager.enabled .Values.coordinator.tls.mutual) -}}
{{- fail "tls.mutual, tls.certManager.enabled and coordinator.tls.mutual need tls.enabled" -}}
{{- end -}}
{{- end -}}

{{/* The secret with a program's certificate: (list $ program). */}}
{{- define "outrider.tlsSecret" -}}
{{- $root := first . -}}
{{- $given := default $root.Values.tls.secretName (get $root.Values (last .)).tls.secretName -}}
{{- if $given -}}
{{- $given -}}
{{- else if $root.Values.tls.certManager.enabled -}}
{{- include "outrider.fullname" $root }}-{{ last . }}-tls
{{- else -}}
{{- printf "tls.enabled needs tls.secretName, %s.tls.secretName or tls.certManager.enabled" (last .) | fail -}}
{{- end -}}
{{- end -}}

{{/* Arguments of who talks to the model services. */}}
{{- define "outrider.clientTlsArgs" -}}
{{- if .Values.tls.enabled }}
- --ca=/etc/outrider/tls/ca.crt
{{- if .Values.tls.mutual }}
- --client-cert=/etc/outrider/tls/tls.crt
- --client-key=/etc/outrider/tls/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{/* Arguments of who is talked to: whether clients show certificates. */}}
{{- define "outrider.serverTlsArgs" -}}
- --tls-cert=/etc/outrider/tls/tls.crt
- --tls-key=/etc/outrider/tls/tls.key
{{- if . }}
- --tls-client-ca=/etc/outrider/tls/ca.crt
{{- end }}
{{- end -}}

{{/* ---- telemetry ---- */}}

{{/* Environment of a program: (list $ program). */}}
{{- define "outrider.otelEnv" -}}
{{- $root := first . -}}
{{- with $root.Values.otel -}}
{{- if .endpoint -}}
- name: K8S_NAMESPACE_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: K8S_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: K8S_POD_UID
  valueFrom: {fieldRef: {fieldPath: metadata.uid}}
- name: K8S_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_RESOURCE_ATTRIBUTES
  {{- $attributes := list
    "k8s.namespace.name=$(K8S_NAMESPACE_NAME)"
    "k8s.pod.name=$(K8S_POD_NAME)"
    "k8s.pod.uid=$(K8S_POD_UID)"
    "k8s.node.name=$(K8S_NODE_NAME)"
    (printf "k8s.container.name=%s" (last $)) }}
  {{- range $key, $value := .resourceAttributes }}
  {{- $attributes = append $attributes (printf "%s=%v" $key $value) }}
  {{- end }}
  value: {{ join "," $attributes | quote }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .protocol }}
- name: OTEL_METRICS_EXPORTER
  value: {{ .metricsExporter }}
{{- with .tracesSampler }}
- name: OTEL_TRACES_SAMPLER
  value: {{ . }}
{{- end }}
{{- if ne (toString .samplerArg) "" }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
{{- end }}
{{- if .headersSecret.name }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .headersSecret.name }}, key: {{ .headersSecret.key }}}}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of the collector: the endpoint's own, or its scheme's. */}}
{{- define "outrider.otelPort" -}}
{{- $url := urlParse .Values.otel.endpoint -}}
{{- default (eq $url.scheme "https" | ternary "443" "80") (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host)) -}}
{{- end -}}
