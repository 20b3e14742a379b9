"""params.yaml, a profile and the command line, made into the parameters in force.

The order is: the top of params.yaml (the demo), then the profile, then each `--set`. A value may be one for both
tasks or one a task (`beta_max: {counting: 0.1, geometry: 0.02}`). What `grpo_d` does not set itself it takes from
`grpo`, so that the two differ in the KL weight and in nothing else.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from othink_mr1.digests import files_digest, folder_digest, jsonl_digest
from othink_mr1.errors import UserError
from othink_mr1.names import METHODS, TASKS, Task
from othink_mr1.settings import Config, Drawn, Grpo
from othink_mr1.training import deepspeed_config

FILE = "params.yaml"
SELECTION = Path(".othink/selection.yaml")
DEFAULT_PROFILE = "demo"
# The keys of a KL schedule: grpo_d has its own, or none of grpo's would leave it constant.
_KL = ("kl_schedule", "beta_min", "beta_max", "kl_exploration")


_KINDS = ("synthetic", "jsonl", "parquet", "imagefolder", "hub", "drawn", "tiny", "path")
# How the content of a source on this machine is known; for one that is not named here, by the files of its folder.
_DIGESTS = {"jsonl": jsonl_digest, "parquet": files_digest}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2's numbers (PyYAML reads 1e-6 as a text, DVC and people as a number), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """PyYAML lets the last of two equal keys win without a word."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                continue
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands there twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """YAML text as plain values; numbers such as 1e-6 are numbers."""
    return yaml.load(text, _Loader)


def load(root: Path, profile: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration.

    Args:
        root: the project's folder, which holds params.yaml.
        profile: a name under `profiles`, or "demo" (the default) for the top of the file.
        overrides: texts such as "grpo_d.beta_max=0.2", the later one wins.

    Raises:
        UserError: params.yaml is missing or broken, or a key, a type, a value or a combination is not allowed.
    """
    written = _read(root / FILE)
    profiles = _profiles(written.pop("profiles", None))
    merged = written
    for layer in _layers(profiles, profile or DEFAULT_PROFILE):
        merged = _merge(merged, layer)
    merged = _merge(merged, _nested(overrides))
    try:
        return Config.model_validate(_by_task(merged))
    except ValidationError as error:
        raise UserError(_one_line(error, merged)) from None


def resolve(
    profile: str | None, overrides: Sequence[str], root: Path = Path(), absent_ok: bool = False
) -> dict[str, Any]:
    """The parameters as the steps see them (`.othink/params.yaml`).

    They hold no path: a source on this machine stands there with the digest of its content, its path is under
    `local`, which no stage depends on.

    Args:
        profile: as in `load`.
        overrides: as in `load`.
        root: the project's folder.
        absent_ok: give a source that is not there the digest "absent", so that a plan can be made without it.

    Raises:
        UserError: as `load`; or a source's file is missing.
    """
    config = load(root, profile, overrides)
    paths: dict[str, str] = {}

    def keyed(key: str, source: dict[str, Any]) -> dict[str, Any]:
        """The source with the digest of its content in the place of its path.

        One on the hub is known by name, revision and split: nothing is asked of the network here.
        """
        folder = key != "base" and source.get("source") == "hub" and (root / source["name"]).is_dir()
        if "path" not in source and not folder:
            return source
        paths[key] = str(source.pop("name" if folder else "path"))
        digest = _DIGESTS.get(source["source"], folder_digest)
        try:
            source["sha256"] = digest(root / paths[key])
        except UserError as error:
            if not absent_ok:
                raise UserError(f"{key}.path: {error}") from None
            source["sha256"] = "absent"
        return source

    data = {task: config.data[task].model_dump(mode="json") for task in TASKS}
    for task in TASKS:
        for split in ("train", "validation", "test"):
            data[task][split] = keyed(f"data.{task}.{split}", data[task][split])
    return {
        "seed": config.seed,
        "threads": config.threads,
        "data": data,
        "base": keyed("base", config.base.model_dump(mode="json", exclude_none=True)),
        "train": {method: {task: _trainer(config, method, task) for task in TASKS} for method in METHODS},
        "training": {"launch": _launch(config, root)},
        "evaluation": config.evaluation.model_dump(mode="json"),
        "tables": config.tables.model_dump(mode="json"),
        "local": {"paths": paths},
    }


def _launch(config: Config, root: Path) -> dict[str, Any]:
    """With DeepSpeed's configuration itself in the place of its path, so that an edit there is a change like any."""
    launch = config.trainings.launch.model_dump(mode="json")
    if launch["deepspeed"] is not None:
        try:
            launch["deepspeed"] = deepspeed_config.read(root / launch["deepspeed"])
        except UserError as error:
            raise UserError(f"training.launch.deepspeed: {error}") from None
    return launch


def write_selection(root: Path, profile: str | None, overrides: Sequence[str]) -> None:
    """Remember what the user chose, so that `dvc repro` and `othink status` mean the same parameters."""
    from othink_mr1.stages import write_whole

    write_whole(root / SELECTION, yaml.safe_dump({"profile": profile, "set": list(overrides)}))


def read_selection(root: Path) -> tuple[str | None, list[str]]:
    """The profile and the settings of the last run; the defaults where there was none."""
    try:
        selection = yaml.safe_load((root / SELECTION).read_text())
        return selection["profile"], [str(item) for item in selection["set"]]
    except FileNotFoundError:
        return None, []
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise UserError(f"{SELECTION}: cannot be read; delete it or choose with `othink run --profile`") from None


def _trainer(config: Config, method: str, task: Task) -> dict[str, Any]:
    settings = config.training(method, task)
    values = settings.model_dump(mode="json", exclude_none=True)
    if isinstance(settings, Grpo):
        if settings.kl_schedule == "constant":
            values.pop("kl_exploration", None)
            values["beta_min"] = settings.beta_max  # one weight: the range is that point
        rewards = config.reward.weights
        values |= {
            "reward_protocol": config.reward.protocol,
            "reward_funcs": list(rewards),
            "reward_weights": list(rewards.values()),
        }
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        written = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run in the project's folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}: line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(written, dict):
        raise UserError(f"{path}: should hold keys and values, not {type(written).__name__}")
    return written


def _profiles(written: Any) -> dict[str, dict[str, Any]]:
    """The profiles by their names; one without a value changes nothing."""
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise UserError(f"{FILE}: profiles = {written!r}: should hold a name and its settings for each profile")
    for name, layer in written.items():
        if not isinstance(layer, dict | None):
            raise UserError(f"{FILE}: profiles.{name} = {layer!r}: should hold keys and values, as the top of the file")
        extends = (layer or {}).get("extends")
        if not isinstance(extends, str | None):
            raise UserError(f"{FILE}: profiles.{name}.extends = {extends!r}: should be the name of one profile")
    return {str(name): layer or {} for name, layer in written.items()}


def _layers(profiles: dict[str, dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """What a profile changes: the profile that it extends first, itself last."""
    known = {DEFAULT_PROFILE: {}, **profiles}
    layers: list[dict[str, Any]] = []
    wanted: str | None = name
    while wanted is not None:
        if wanted not in known:
            raise UserError(f"profile {wanted!r} is unknown{_hint(wanted, list(known))}")
        if len(layers) > len(known):
            raise UserError(f"profile {name!r} extends itself")
        layer = dict(known[wanted])
        wanted = layer.pop("extends", None)
        layers.insert(0, layer)
    return layers


def _nested(overrides: Sequence[str]) -> dict[str, Any]:
    """["a.b=1", "a.c=2"] as {"a": {"b": 1, "c": 2}}."""
    result: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UserError(f"--set {text}: should be KEY=VALUE, such as grpo_d.beta_max=0.2")
        try:
            nested = parse_yaml(value)
        except yaml.YAMLError:
            raise UserError(f"--set {text}: {value!r} is not a YAML value") from None
        for part in reversed(parts):
            nested = {part: nested}
        result = _merge(result, nested)
    return result


def _merge(lower: Any, upper: Any) -> Any:
    """`upper` over `lower`, mapping by mapping."""
    if not isinstance(upper, dict):
        return upper
    if not isinstance(lower, dict):
        # One value for both tasks, and now another one for one of them.
        one_task = lower is not None and upper and set(upper) <= set(TASKS)
        return {**dict.fromkeys(TASKS, lower), **upper} if one_task else upper
    if "source" in upper and upper["source"] != lower.get("source"):
        return upper  # another kind of source has other keys
    if "fraction" in upper and "source" in lower:
        return upper
    return {**lower, **{key: _merge(lower.get(key), value) for key, value in upper.items()}}


def _by_task(merged: dict[str, Any]) -> dict[str, Any]:
    """Give each task its own copy of the sections whose values may differ by task."""
    result = dict(merged)
    for method in METHODS:
        section = merged.get(method)
        if isinstance(section, dict):
            result[method] = {task: _of_task(section, task) for task in TASKS}
    if isinstance(result.get("grpo_d"), dict) and isinstance(result.get("grpo"), dict):
        for task in TASKS:
            shared = {key: value for key, value in result["grpo"][task].items() if key not in _KL}
            result["grpo_d"][task] = {**shared, **result["grpo_d"][task]}
    evaluation = merged.get("evaluation")
    if isinstance(evaluation, dict) and not isinstance(evaluation.get("max_new_tokens"), dict):
        tokens = evaluation.get("max_new_tokens")
        result["evaluation"] = {**evaluation, "max_new_tokens": dict.fromkeys(TASKS, tokens)}
    return result


def _of_task(section: dict[str, Any], task: str) -> dict[str, Any]:
    values = {}
    for key, value in section.items():
        if isinstance(value, dict) and value and set(value) <= set(TASKS):
            if task not in value:
                continue
            value = value[task]
        values[key] = value
    return values


def _one_line(error: ValidationError, merged: Mapping[str, Any]) -> str:
    """pydantic's first complaint as: key, value, what is allowed."""
    problem = error.errors(include_url=False)[0]
    # pydantic names the kind of source, too, which is no key of params.yaml.
    location = _without_kinds([str(part) for part in problem["loc"]])
    suffix = ""
    if location and location[0] in METHODS and len(location) > 1 and location[1] in TASKS:
        suffix = f" (task {location.pop(1)})"
    if location and location[-1] == "[key]":  # of a mapping whose keys are known
        allowed = re.findall("'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
        return f"{FILE}: unknown key {'.'.join(location[:-1])!r}{_hint(location[-2], allowed)}"
    key = ".".join(location)
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "extra_forbidden":
        return f"{FILE}: unknown key {key!r}{_hint(location[-1], _siblings(problem['loc']))}"
    if problem["type"] == "missing":
        return f"{FILE}: {key} is not set{suffix}"
    if problem["type"] == "value_error" and isinstance(problem["input"], (dict, list)):
        return f"{FILE}: {key}{suffix}: {message}" if key else f"{FILE}: {message}"
    if problem["type"].startswith("union_tag"):
        return f"{FILE}: {key}.source: {message}"
    return f"{FILE}: {key} = {problem['input']!r}{suffix}: {message}"


def _without_kinds(location: list[str]) -> list[str]:
    place = {"base": 1, "data": 3}.get(location[0] if location else "", len(location))
    if len(location) > place and location[place] in _KINDS:
        return location[:place] + location[place + 1 :]
    return location


def _siblings(location: Sequence[int | str]) -> list[str]:
    """The keys that would have been allowed where an unknown one was found."""
    model: Any = Config
    for part in location[:-1]:
        model = _inside(model, str(part))
    return list(getattr(model, "model_fields", {}))


def _inside(annotation: Any, part: str) -> Any:
    fields = getattr(annotation, "model_fields", None)
    if fields is not None:
        return fields[part].annotation if part in fields else annotation
    candidates = list(getattr(annotation, "__args__", ()))
    for candidate in candidates:
        kind = candidate.__args__[0] if hasattr(candidate, "__metadata__") else candidate
        source = getattr(kind, "model_fields", {}).get("source")
        if (source is not None and part in source.annotation.__args__) or (part, kind) == ("drawn", Drawn):
            return kind
    return candidates[-1] if candidates else annotation


def _hint(word: str, known: Sequence[str]) -> str:
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess}; allowed: {', '.join(known)}" if not guess else f"{guess} Allowed: {', '.join(known)}"
