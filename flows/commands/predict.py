"""`othink predict`: one question about one picture."""

import base64
import json
from pathlib import Path

from flows.commands.registered import connected
from othink_mr1 import registry
from othink_mr1.errors import UserError
from othink_mr1.registry.candidates import registered_name, serving_config
from othink_mr1.serving.answering import Answerer, Reply, open_picture
from othink_mr1.settings import Config


def predict(task: str, image: Path, question: str, model: str, as_json: bool) -> None:
    """Print thinking and answer of a registered model, or of a model folder.

    Raises:
        UserError: unknown task, no such model, or a picture that cannot be read.
    """
    registered_name(task)
    if not question.strip():
        raise UserError("--question: it is empty; ask something about the picture")
    open_picture(image)  # a wrong picture is told before a model is loaded
    root, settings = connected()
    if Path(model).is_dir():
        name, reply = model, _ask_folder(Path(model), settings, task, image, question)
    else:
        entry = registry.version(root, task, model)
        name, reply = f"{entry.name} version {entry.version}", _ask_version(root, entry, image, question)
    if as_json:
        parts = {"model": name, "thinking": reply.thinking, "answer": reply.answer, "completion": reply.completion}
        print(json.dumps(parts, indent=1, ensure_ascii=False))
        return
    print(f"model:    {name}")
    print(f"thinking: {reply.thinking or '(none)'}")
    print(f"answer:   {reply.answer if reply.answer is not None else f'(none) in: {reply.completion.strip()}'}")


def _ask_folder(folder: Path, settings: Config, task: str, image: Path, question: str) -> Reply:
    params = {"evaluation": settings.evaluation.model_dump(), "base": settings.base.model_dump()}
    config = serving_config(task, params)
    answerer = Answerer(folder, task, config["max_new_tokens"], config["max_pixels"])
    return answerer.ask([open_picture(image)], [question])[0]


def _ask_version(root: Path, entry: registry.Version, image: Path, question: str) -> Reply:
    encoded = base64.b64encode(image.read_bytes()).decode()
    [row] = registry.load(root, entry).predict([{"image": encoded, "question": question}]).to_dict("records")
    return Reply(row["thinking"], row["answer"] or None, row["completion"])
