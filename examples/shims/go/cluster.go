package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"example.com/ote-memory-shim/commandv1"
)

// readyAnnotation lets somebody see what happens to objects that do not become ready: nothing in memory takes time.
const readyAnnotation = "conformance.ote.dev/ready"

// Kubernetes uses names as path segments, and so may whoever reads ours.
var nameRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

type manifest struct {
	apiVersion, kind, namespace, name string
	ready                             bool
	content                           map[string]any
	json                              []byte // content, in one spelling: equal manifests have equal bytes
}

type key struct{ kind, namespace, name string }

func keyOf(kind, namespace, name string) key {
	kind = strings.TrimSuffix(strings.ToLower(kind), "s")
	switch {
	case kind == "namespace" || kind == "node":
		namespace = ""
	case namespace == "":
		namespace = "default"
	}
	return key{kind, namespace, name}
}

// cluster is the cluster: objects in a map.
type cluster struct {
	mu      sync.Mutex
	objects map[key]manifest
	version int // counts changes
}

// parse checks all manifests; an error is for people and means that none may be applied.
func parse(data []byte) ([]manifest, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the manifests are not UTF-8")
	}
	var found []manifest
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document any
		switch err := decoder.Decode(&document); {
		case errors.Is(err, io.EOF):
			if len(found) == 0 {
				return nil, errors.New("there is no object in the manifests")
			}
			return found, nil
		case err != nil:
			return nil, fmt.Errorf("the manifests do not parse: %w", err)
		case document == nil:
			continue
		}
		one, err := check(document)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
}

func check(document any) (manifest, error) {
	content, ok := document.(map[string]any)
	if !ok {
		return manifest{}, errors.New("a document is not an object")
	}
	metadata, ok := content["metadata"].(map[string]any)
	if !ok {
		return manifest{}, errors.New("an object has no metadata")
	}
	one := manifest{content: content, ready: true}
	one.apiVersion, _ = content["apiVersion"].(string)
	one.kind, _ = content["kind"].(string)
	one.name, _ = metadata["name"].(string)
	namespace, ok := metadata["namespace"].(string)
	switch {
	case one.apiVersion == "" || one.kind == "":
		return manifest{}, errors.New("an object has no apiVersion or no kind")
	case !nameRule.MatchString(one.name):
		return manifest{}, fmt.Errorf("%.40q cannot be the name of a %s", one.name, one.kind)
	case metadata["namespace"] != nil && (!ok || !nameRule.MatchString(namespace)):
		return manifest{}, fmt.Errorf("%s %s: its namespace cannot be a name", one.kind, one.name)
	}
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		one.ready = annotations[readyAnnotation] != "never"
	}
	one.namespace = keyOf(one.kind, namespace, one.name).namespace
	if one.namespace != "" {
		metadata["namespace"] = one.namespace
	}
	var err error
	if one.json, err = json.Marshal(content); err != nil {
		return manifest{}, fmt.Errorf("%s %s: %w", one.kind, one.name, err)
	}
	return one, nil
}

func (m manifest) ref() *commandv1.ObjectRef {
	return &commandv1.ObjectRef{ApiVersion: m.apiVersion, Kind: m.kind, Namespace: m.namespace, Name: m.name}
}

func (c *cluster) apply(wanted []manifest) []*commandv1.ObjectResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	var results []*commandv1.ObjectResult
	for _, one := range wanted {
		place := keyOf(one.kind, one.namespace, one.name)
		action := commandv1.Action_ACTION_CREATED
		if before, ok := c.objects[place]; ok {
			action = commandv1.Action_ACTION_CONFIGURED
			if bytes.Equal(before.json, one.json) {
				action = commandv1.Action_ACTION_UNCHANGED
			}
		}
		c.objects[place] = one
		results = append(results, &commandv1.ObjectResult{Object: one.ref(), Action: action, Ready: one.ready})
	}
	c.version++
	return results
}

func (c *cluster) delete(refs []*commandv1.ObjectRef) []*commandv1.ObjectResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	var results []*commandv1.ObjectResult
	for _, ref := range refs {
		place := keyOf(ref.GetKind(), ref.GetNamespace(), ref.GetName())
		action := commandv1.Action_ACTION_ABSENT
		if _, ok := c.objects[place]; ok {
			action = commandv1.Action_ACTION_DELETED
			delete(c.objects, place)
		}
		results = append(results, &commandv1.ObjectResult{Object: ref, Action: action, Ready: true})
	}
	c.version++
	return results
}

// get answers the objects as a JSON array, and how many there are.
func (c *cluster) get(get *commandv1.Get) ([]byte, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := keyOf(get.GetKind(), get.GetNamespace(), get.GetName())
	var found []manifest
	for place, one := range c.objects {
		if place.kind == wanted.kind &&
			(get.GetAllNamespaces() || place.namespace == wanted.namespace) &&
			(get.GetName() == "" || place.name == wanted.name) {
			found = append(found, one)
		}
	}
	sort.Slice(found, func(a, b int) bool {
		return found[a].namespace+"/"+found[a].name < found[b].namespace+"/"+found[b].name
	})
	items := make([][]byte, len(found))
	for i, one := range found {
		items[i] = one.json
	}
	return append(append([]byte("["), bytes.Join(items, []byte(","))...), ']'), len(found)
}

// count answers the number of objects by kind, and the version to which that belongs.
func (c *cluster) count() (map[string]uint32, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted := map[string]uint32{}
	for _, one := range c.objects {
		counted[one.kind]++
	}
	return counted, c.version
}
