"""The examples in deploy/ fit the programs: their settings are known, their commands exist."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ote.clustercontroller.settings import Settings
from ote.config.load import load

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
PROGRAMS: dict[str, str] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]


def manifests() -> dict[str, Any]:
    """Documents of the root's manifest by kind."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "root.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("path", sorted((DEPLOY / "systemd").glob("*.yaml")), ids=lambda path: path.name)
def test_settings_of_a_unit_are_settings(path: Path) -> None:
    settings = load(Settings, file=path)
    assert settings.data_dir == Path("/var/lib/ote") / settings.name, "the unit's state directory"


def test_the_unit_starts_a_program_and_gives_it_time_to_stop() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]  # keys of a unit have capitals
    unit.read(DEPLOY / "systemd" / "ote-clustercontroller@.service")
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    assert Path(program).name in PROGRAMS
    assert arguments == ["--config", "/etc/ote/%i.yaml"]
    assert int(service["TimeoutStopSec"]) > load(Settings, flags={"data_dir": "x"}).stop_grace + 2


def test_the_manifest_serves_what_its_settings_say(tmp_path: Path) -> None:
    found = manifests()
    file = tmp_path / "root.yaml"
    file.write_text(found["ConfigMap"]["data"]["root.yaml"])
    settings = load(Settings, file=file)
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.listen.endswith(f":{ports['grpc']}")
    assert settings.metrics_listen is not None
    assert settings.metrics_listen.endswith(f":{ports['metrics']}")
    assert [port["port"] for port in found["Service"]["spec"]["ports"]] == [ports["grpc"]]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(str(settings.data_dir).startswith(mount) for mount in mounts)
    assert pod["terminationGracePeriodSeconds"] > settings.stop_grace + 2
    assert found["Service"]["spec"]["selector"] == found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]


def test_the_image_runs_a_program() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    [entry] = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry.split('"')[1] in PROGRAMS
