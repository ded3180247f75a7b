"""The local shim: Kubernetes manifests on one machine, as processes or podman containers.

`shim.LocalShim` is the whole of it; `core/` decides, everything else carries out. Nothing here imports click, a
Kubernetes client, or PyYAML before the first manifest.
"""
