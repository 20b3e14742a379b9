"""The images and the compose file are well formed, pinned, and expose nothing by default."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    return tool("hadolint", "--config", DOCKER / "hadolint.yaml", file)


def compose_schema(file: Path) -> subprocess.CompletedProcess[str]:
    return tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def test_the_dockerfile_passes_hadolint() -> None:
    result = hadolint(DOCKER / "Dockerfile")
    assert result.returncode == 0, result.stdout


def test_hadolint_finds_a_planted_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(re.sub(r"(FROM python):\S+", r"\1", (DOCKER / "Dockerfile").read_text()))
    assert "DL3006" in hadolint(bad).stdout


def test_the_compose_file_follows_the_specification() -> None:
    result = compose_schema(DOCKER / "compose.yaml")
    assert result.returncode == 0, result.stdout


def test_the_schema_finds_a_planted_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yaml"
    bad.write_text((DOCKER / "compose.yaml").read_text().replace("healthcheck:", "health_check:", 1))
    assert compose_schema(bad).returncode != 0


def test_both_targets_run_as_a_plain_user_from_pinned_bases() -> None:
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    by_name = {stage.split()[2]: stage for stage in stages}
    for target in ("cpu", "gpu"):
        users = re.findall(r"^USER (\S+)", by_name[target], flags=re.MULTILINE)
        assert users, target
        assert int(users[-1]) >= 1000
        assert "pip install -r requirements.lock" in by_name[target]
    for base in ("cpu-system", "gpu-system"):
        tag = by_name[base].split()[0].rpartition(":")[2]
        assert re.match(r"\d+\.\d+\.\d+-", tag), tag


def test_ports_are_published_on_loopback_alone() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)
    assert "ports" not in COMPOSE["services"]["postgres"]


def test_no_password_has_a_default() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE))
    assert set(example.values()) == {""}
    used = dict(re.findall(r"\$\{(\w+)([^}]*)\}", text))
    assert set(used) == set(example)
    optional = {name for name, rest in used.items() if not rest.startswith(":?")}
    assert optional == {"PIP_EXTRA_INDEX_URL"}


def test_both_servers_ask_for_a_password() -> None:
    services = COMPOSE["services"]
    assert services["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH_STRING:?")
    assert "--app-name=basic-auth" in services["mlflow"]["command"]
    assert "password" not in " ".join(services["mlflow"]["command"]).lower()


def test_servers_and_database_report_their_health() -> None:
    for name in ("postgres", "prefect", "mlflow"):
        assert "healthcheck" in COMPOSE["services"][name], name
    for name in ("cpu-worker", "gpu-worker"):
        conditions = COMPOSE["services"][name]["depends_on"]
        assert {value["condition"] for value in conditions.values()} == {"service_healthy"}


def test_the_gpu_worker_starts_only_when_asked_for() -> None:
    assert COMPOSE["services"]["gpu-worker"]["profiles"] == ["gpu"]


def test_no_secret_is_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "docker/.env.example" in tracked
    assert not [name for name in tracked if Path(name).name == ".env"]
