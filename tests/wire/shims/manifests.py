"""Manifests of the tests, small enough to be read where they are used."""

from __future__ import annotations

import json
from typing import Any

SERVER = (
    "import http.server,os,sys;"
    "print('serving', os.environ['PORT'], *sys.argv[1:], flush=True);"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])),"
    " http.server.SimpleHTTPRequestHandler).serve_forever()"
)


def container(*command: str, **fields: Any) -> dict[str, Any]:
    return {"name": "main", "command": list(command), **fields}


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return container("sh", "-c", script, **fields)


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> str:
    body = {"terminationGracePeriodSeconds": 2, **spec, "containers": list(containers)}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body})


def job(name: str, one: dict[str, Any], **spec: Any) -> str:
    template = {"spec": {"restartPolicy": "Never", "containers": [one]}}
    spec = {"template": template, **spec}
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})


def deployment(name: str, one: dict[str, Any], replicas: int = 1) -> str:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [one], "terminationGracePeriodSeconds": 2},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})


def config(name: str, **data: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def secret(name: str, **data: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})


def together(*manifests: str) -> str:
    return "\n---\n".join(manifests)
