"""Settings of `ote-local-shim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from ote.config.settings import BaseSettings, Duration, HostPort
from ote.rpc.address import is_local


class LocalShimSettings(BaseSettings, frozen=True):
    """Everything that can be set. Raises ValueError where settings contradict one another."""

    listen: Annotated[str, Meta(description="Where to serve: unix:/PATH, or HOST:PORT (with certificates).")]
    data_dir: Annotated[Path, Meta(description="Folder of this shim alone: its store, pods, logs. Made if missing.")]
    driver: Annotated[
        Literal["process", "podman"],
        Meta(description="How containers run: as processes of this machine, or by podman from images."),
    ] = "process"
    tls_cert: Annotated[
        Path | None, Meta(description="PEM file: the certificate shown on HOST:PORT, its issuers after it.")
    ] = None
    tls_key: Annotated[Path | None, Meta(description="PEM file: the certificate's private key.")] = None
    tls_ca: Annotated[
        Path | None, Meta(description="PEM file: the authority that callers' certificates come from.")
    ] = None
    client: Annotated[
        tuple[str, ...],
        Meta(description="Names of the clusters whose controllers may call; any of the authority's if none is given."),
    ] = ()
    insecure: Annotated[bool, Meta(description="Serve HOST:PORT without certificates; on loopback only.")] = False
    metrics_listen: Annotated[
        HostPort | None, Meta(description="Where to serve /metrics, /healthz and /readyz; nowhere unless given.")
    ] = None
    grace: Annotated[Duration, Meta(description="How long calls may go on when the shim is told to stop.")] = 5.0
    log_format: Annotated[
        Literal["auto", "json", "plain"], Meta(description="auto: plain on a terminal, else JSON.")
    ] = "auto"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level logged.")] = (
        "info"
    )

    def __post_init__(self) -> None:
        files = (self.tls_cert, self.tls_key, self.tls_ca)
        if any(files) and not all(files):
            raise ValueError("tls_cert, tls_key and tls_ca are given together or not at all")
        if any(files) and self.insecure:
            raise ValueError("insecure and certificates contradict each other")
        if self.listen.startswith("unix:"):
            return
        if not any(files) and not self.insecure:
            raise ValueError(f"{self.listen} needs tls_cert, tls_key and tls_ca (or insecure, on loopback)")
        if self.insecure and not is_local(self.listen):
            raise ValueError(f"insecure works on loopback only, and {self.listen} is not")
