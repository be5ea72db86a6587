{{- define "name" -}}{{ .Release.Name }}-wwwmarket{{- end -}}
{{- define "labels" -}}
app.kubernetes.io/name: wwwmarket
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.role }}
{{- end -}}
