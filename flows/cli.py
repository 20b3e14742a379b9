"""The `othink` command: what there is to call. Each command's work is in flows/commands, imported when it is called.

Only typer and the standard library are imported here, so that `othink --help` answers at once.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="othink",
    help="From two datasets to a promoted model: prepare, train, evaluate, register, promote.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Profile = Annotated[str | None, typer.Option("--profile", "-p", help="demo (default), smoke, paper-2b or paper-7b.")]
Task = Annotated[str, typer.Option("--task", "-t", help="counting or geometry.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set a key of params.yaml: --set grpo_d.beta_max=0.2"),
]
OneTask = Annotated[str | None, typer.Option("--task", "-t", help="counting or geometry; both if not given.")]
Refused = Annotated[bool, typer.Option("--refused", help="The data that the last checks refused, not the good ones.")]
STEP_HELP = (
    "A step (see `othink status`) or a part of its name that several share: train, evaluate, grpo_d, counting, "
    "grpo_d-counting."
)


@app.command()
def run(
    profile: Profile = None,
    overrides: Sets = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help=f"Begin at this step. {STEP_HELP}")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="STEP", help=f"Run only this step. {STEP_HELP}")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run steps that are up to date, too.")] = False,
    resume_anyway: Annotated[
        bool,
        typer.Option("--resume-anyway", help="Go on from checkpoints that other code has made; the record says so."),
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and why; run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run the pipeline: only what is out of date, and what follows from it."""
    with _one_line():
        from flows.commands import run as command

        command.run(profile, overrides or [], from_step, only, force, plan, as_json, resume_anyway)


@app.command()
def study(
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="Whole numbers, such as 0,1,2.")],
    profile: Profile = None,
    overrides: Sets = None,
    as_json: Json = False,
) -> None:
    """Run the pipeline for several seeds and print means and intervals over them; promotes nothing."""
    with _one_line():
        from flows.commands import study as command

        command.study(seeds, profile, overrides or [], as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Each step: done, stale (and what changed), failed, never ran; how long it took; its MLflow run."""
    with _one_line():
        from flows.commands import status as command

        command.status(as_json)


@app.command()
def report() -> None:
    """Write the HTML report anew and print its path."""
    with _one_line():
        from flows.commands import report as command
        from flows.project import find_root

        _print(command.report(find_root()))


@app.command()
def models(
    task: OneTask = None,
    as_json: Json = False,
) -> None:
    """The registered versions with their aliases and gate results."""
    with _one_line():
        from flows.commands import models as command

        command.models(task, as_json)


@app.command()
def promote(
    task: Task,
    version: Annotated[str | None, typer.Argument(help="A version's number; the candidate if not given.")] = None,
    new_test_set: Annotated[
        bool, typer.Option("--new-test-set", help="The test set was changed on purpose: compare with the base.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a version the champion if it passes the gates."""
    with _one_line():
        from flows.commands import promote as command

        command.promote(task, version, new_test_set, as_json)


@app.command()
def rollback(task: Task, as_json: Json = False) -> None:
    """Put back the champion before the present one."""
    with _one_line():
        from flows.commands import rollback as command

        command.rollback(task, as_json)


@app.command()
def predict(
    task: Task,
    image: Annotated[Path, typer.Option("--image", "-i", help="A picture.")],
    question: Annotated[str, typer.Option("--question", "-q", help="A question about it.")],
    model: Annotated[str, typer.Option("--model", "-m", help="An alias or a version's number.")] = "champion",
    as_json: Json = False,
) -> None:
    """Thinking and answer of a registered model to one question."""
    with _one_line():
        from flows.commands import predict as command

        command.predict(task, image, question, model, as_json)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A .jsonl file with `completion` and `solution` a row.")],
    task: Task,
    protocol: Annotated[str, typer.Option("--protocol", help="strict or r1v.")] = "strict",
    as_json: Json = False,
) -> None:
    """Score finished completions, of this project or of any other model."""
    with _one_line():
        from flows.commands import score as command

        command.score(file, task, protocol, as_json)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of a LoRA adapter, such as models/grpo_d-counting.")],
    out: Annotated[Path, typer.Argument(help="The whole model goes here: a folder that is not there yet.")],
    base: Annotated[
        Path | None, typer.Option("--base", help="The base's folder, where it is not found as the adapter recorded it.")
    ] = None,
) -> None:
    """Merge a LoRA adapter into its base, so that programs that know no adapters can take the model."""
    with _one_line():
        from flows.commands import merge as command

        command.merge(adapter, out, base)


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of MLflow on loopback.")] = 5000,
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of Prefect on loopback.")] = 4200,
) -> None:
    """Start the MLflow and Prefect servers on loopback and print their addresses; Ctrl-C ends them."""
    with _one_line():
        from flows.commands import ui as command

        command.ui(mlflow_port, prefect_port)


data_app = typer.Typer(
    help="Look at the prepared data: what is in them, what changed, what was put aside, what is accepted as usual.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")


@data_app.command("show")
def data_show(
    task: OneTask = None,
    split: Annotated[str | None, typer.Option("--split", help="train, validation or test; all if not given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw a sheet of pictures into this PNG.")] = None,
    refused: Refused = False,
    as_json: Json = False,
) -> None:
    """Rows, answers, picture sizes and source of each split."""
    with _one_line():
        from flows.commands import data as command

        command.show(task, split, out, refused, as_json)


@data_app.command("diff")
def data_diff(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A git revision whose dvc.lock names the data.")],
    task: OneTask = None,
    as_json: Json = False,
) -> None:
    """Rows added, removed and changed since an earlier version, by sample_id."""
    with _one_line():
        from flows.commands import data_diff as command

        command.diff(revision, task, as_json)


@data_app.command("quarantine")
def data_quarantine(
    task: OneTask = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Write the rows and pictures into a new folder.")
    ] = None,
    refused: Refused = False,
    as_json: Json = False,
) -> None:
    """Why rows were put aside, with examples."""
    with _one_line():
        from flows.commands import data as command

        command.quarantine(task, export, refused, as_json)


@data_app.command("accept")
def data_accept(task: OneTask = None, refused: Refused = False, as_json: Json = False) -> None:
    """Accept how the answers and picture sizes are spread: later data are held against it."""
    with _one_line():
        from flows.commands import data as command

        command.accept(task, refused, as_json)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what the user can put right into one line and an exit code: 1, 2 for a wrong call, 130 for Ctrl-C."""
    from othink_mr1.errors import UserError

    try:
        yield
    except UserError as error:
        _fail(str(error), 2 if type(error).__name__ == "UnknownStepError" else 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("flows", "othink_mr1", "steps"):
            raise
        _fail(
            f"the package {error.name} is missing: install the project with `make`, or `pip install -e '.[pipeline]'`"
        )
    except OSError as error:
        _fail(_system_error(error))


def _system_error(error: OSError) -> str:
    """An error of the system in one line; one that is no user's business is raised again."""
    import errno

    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run again"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"not allowed{where}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use: {error.strerror}; choose another"
    raise error


def _fail(message: str, code: int = 1) -> None:
    print(f"othink: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _print(value: Any) -> None:
    print(value if isinstance(value, str | Path) else json.dumps(value, indent=1))


if __name__ == "__main__":
    app()
