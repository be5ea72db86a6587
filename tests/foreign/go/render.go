// Renders a Helm chart's templates with values, as Helm does: Go's text/template with sprig's functions and Helm's own
// include, required and toYaml (JSON is YAML). Standard input is JSON {"files": {name: text}, "values": {…}, "release":
// name, "chart": {…}}; standard output is JSON {name: rendered}.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
)

type request struct {
	Files   map[string]string
	Values  map[string]any
	Release string
	Chart   map[string]any
}

func main() {
	if err := render(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render() error {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	all := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data any) (string, error) {
		var out strings.Builder
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["required"] = func(warning string, value any) (any, error) {
		if value == nil || value == "" {
			return nil, errors.New(warning)
		}
		return value, nil
	}
	functions["toYaml"] = func(value any) (string, error) {
		text, err := json.MarshalIndent(value, "", "  ")
		return string(text), err
	}
	all.Funcs(functions)
	for name, text := range asked.Files {
		if _, err := all.New(name).Parse(text); err != nil {
			return err
		}
	}
	data := map[string]any{
		"Values":  asked.Values,
		"Release": map[string]any{"Name": asked.Release},
		"Chart":   asked.Chart,
	}
	rendered := map[string]string{}
	for name := range asked.Files {
		if strings.HasSuffix(name, ".tpl") {
			continue
		}
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, name, data); err != nil {
			return err
		}
		rendered[name] = out.String()
	}
	return json.NewEncoder(os.Stdout).Encode(rendered)
}
