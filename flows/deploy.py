"""Registers this project with a Prefect server: `python -m flows.deploy`, with PREFECT_API_URL set.

prefect.yaml says what is deployed. Two things that it cannot say are added here: work pools are created where they do
not exist (`prefect deploy` fails without), and each pool that `pools` in params.yaml names gets the stage deployment.
"""

import argparse
import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows import server
from flows.project import find_root
from othink_mr1 import config, stages
from othink_mr1.errors import UserError

STAGE = "flows/stage.py:stage"


def with_pools(written: dict[str, Any], pools: Iterable[str]) -> dict[str, Any]:
    """prefect.yaml's content, with the stage deployment in each of `pools` besides the pool that it names itself.

    Raises:
        UserError: prefect.yaml holds no stage deployment to copy.
    """
    deployments = list(written.get("deployments") or ())
    pattern = next((entry for entry in deployments if entry.get("entrypoint") == STAGE), None)
    if pattern is None:
        raise UserError(f"prefect.yaml: no deployment has the entrypoint {STAGE!r}, through which stages reach a pool")
    for pool in sorted(set(pools) - {pattern["work_pool"]["name"]}):
        entry = copy.deepcopy(pattern)
        entry["name"] = f"{pattern['name']}-{pool}"
        entry["work_pool"]["name"] = pool
        deployments.append(entry)
    return {**written, "deployments": deployments}


def deploy(root: Path) -> list[str]:
    """Create missing pools, register every deployment, and return the pools that need workers.

    Raises:
        UserError: no server is named, it does not answer, or it refuses.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise UserError("PREFECT_API_URL is not set: name the server, such as http://127.0.0.1:4200/api")
    try:
        written = yaml.safe_load((root / "prefect.yaml").read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"prefect.yaml: cannot be read: {' '.join(str(error).split())}") from None
    content = with_pools(written, config.load(root).pools.values())
    pools = sorted({entry["work_pool"]["name"] for entry in content["deployments"]})
    _create_missing(pools)
    file = root / stages.WORK / "prefect.yaml"
    stages.write_whole(file, yaml.safe_dump(content, sort_keys=False))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise UserError(f"prefect deploy failed: {''.join(last).strip()}")
    return pools


def _create_missing(pools: Sequence[str]) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, server.plainly(str(client.api_url)):
        for pool in pools:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))


def main(argv: Sequence[str] | None = None) -> None:
    """Deploy, and say which workers are needed."""
    description = "Register prefect.yaml's deployments and the work pools of params.yaml with a Prefect server."
    argparse.ArgumentParser(prog="python -m flows.deploy", description=description).parse_args(argv)
    for pool in deploy(find_root()):
        print(f"deployed; a worker: OTHINK_PROJECT=$PWD prefect worker start --pool {pool} --type process --limit 1")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
