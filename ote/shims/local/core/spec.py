"""Typed views of checked manifests: what a container, a pod, a deployment and a job ask for.

Not here: the checks (`schema`); these types are made from bodies that passed them. Field names are the manifest's in
snake case, defaults are Kubernetes' unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    pass


class KeyRef(_Spec, frozen=True):
    """One key of a ConfigMap or Secret."""

    name: str
    key: str
    optional: bool = False


class FieldRef(_Spec, frozen=True):
    """A field of the pod: metadata.name, metadata.namespace, metadata.uid or status.podIP."""

    field_path: str


class ValueFrom(_Spec, frozen=True):
    """Where the value of a variable comes from; exactly one is set."""

    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    field_ref: FieldRef | None = None


class EnvVar(_Spec, frozen=True):
    """One variable."""

    name: str
    value: str = ""
    value_from: ValueFrom | None = None


class SourceRef(_Spec, frozen=True):
    """A whole ConfigMap or Secret."""

    name: str
    optional: bool = False


class EnvFrom(_Spec, frozen=True):
    """All keys of a ConfigMap or Secret as variables."""

    prefix: str = ""
    config_map_ref: SourceRef | None = None
    secret_ref: SourceRef | None = None


class Port(_Spec, frozen=True):
    """A port that a container listens on."""

    container_port: int
    name: str = ""


class VolumeMount(_Spec, frozen=True):
    """Where a volume appears in a container."""

    name: str
    mount_path: str
    sub_path: str = ""


class Header(_Spec, frozen=True):
    """A header of an HTTP probe."""

    name: str
    value: str


class HttpGet(_Spec, frozen=True):
    """An HTTP probe: any status from 200 to 399 is good."""

    port: int | str
    path: str = "/"
    host: str = ""
    http_headers: tuple[Header, ...] = ()


class TcpSocket(_Spec, frozen=True):
    """A probe that connects."""

    port: int | str
    host: str = ""


class Exec(_Spec, frozen=True):
    """A probe that runs a command in the container's place; exit code 0 is good."""

    command: tuple[str, ...]


class Probe(_Spec, frozen=True):
    """A probe; exactly one of its three ways is set. Times in seconds."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class Container(_Spec, frozen=True):
    """One container."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    ports: tuple[Port, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None


class Item(_Spec, frozen=True):
    """A key of a ConfigMap or Secret and the file it becomes."""

    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(_Spec, frozen=True):
    """A ConfigMap as files."""

    name: str
    items: tuple[Item, ...] | None = None
    optional: bool = False
    default_mode: int = 0o644


class SecretVolume(_Spec, frozen=True):
    """A Secret as files. Unlike in Kubernetes only the owner can read them unless defaultMode says otherwise."""

    secret_name: str
    items: tuple[Item, ...] | None = None
    optional: bool = False
    default_mode: int = 0o600


class Volume(_Spec, frozen=True):
    """A volume; without a source it is an empty folder."""

    name: str
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None


class PodSpec(_Spec, frozen=True):
    """What a pod runs."""

    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30

    def container(self, name: str) -> Container:
        """The container of a name that the pod has."""
        return next(container for container in self.containers if container.name == name)


class RollingUpdate(_Spec, frozen=True):
    """Bounds of a rolling change, in pods or percent of the replicas. Defaults are this shim's own."""

    max_surge: int | str = 1
    max_unavailable: int | str = 0


class Strategy(_Spec, frozen=True):
    """How a deployment changes its pods."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate = RollingUpdate()


class DeploymentSpec(_Spec, frozen=True):
    """What a deployment keeps running."""

    template: dict[str, Any]
    replicas: int = 1
    strategy: Strategy = Strategy()


class JobSpec(_Spec, frozen=True):
    """What a job runs to its end. Times in seconds."""

    template: dict[str, Any]
    completions: int | None = None
    parallelism: int = 1
    backoff_limit: int = 6
    active_deadline_seconds: int | None = None
    ttl_seconds_after_finished: int | None = None


def pod_spec(body: dict[str, Any]) -> PodSpec:
    """The typed view of a checked pod spec."""
    return msgspec.convert(body, PodSpec)


def deployment_spec(body: dict[str, Any]) -> DeploymentSpec:
    """The typed view of a checked deployment."""
    return msgspec.convert(body["spec"], DeploymentSpec)


def job_spec(body: dict[str, Any]) -> JobSpec:
    """The typed view of a checked job."""
    return msgspec.convert(body["spec"], JobSpec)
