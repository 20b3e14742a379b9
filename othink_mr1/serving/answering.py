"""One picture and one question in, thinking and answer out."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from othink_mr1.answers import extract_answer
from othink_mr1.data.pictures import RowError, read_picture
from othink_mr1.errors import UserError
from othink_mr1.prompts import test_prompt


@dataclass(frozen=True)
class Reply:
    """What a model said: `thinking` is empty and `answer` None where the completion has no such part."""

    thinking: str
    answer: str | None
    completion: str


class Answerer:
    """A model folder, loaded once, that answers questions as the evaluation asks them (R1-V's test prompt, greedy).

    Args:
        folder: weights, tokenizer and processor in Hugging Face's layout.
        task: whose test prompt is used.
        max_new_tokens: where a completion is cut off.
        max_pixels: larger pictures are scaled down; None keeps the folder's own limit.

    Raises:
        UserError: the folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path, task: str, max_new_tokens: int, max_pixels: int | None = None) -> None:
        from transformers.utils import logging

        from othink_mr1.models.loading import load_model, load_processor

        logging.disable_progress_bar()  # a bar of weights is no part of an answer

        self.task, self.max_new_tokens = task, max_new_tokens
        self.model: Any = load_model(folder)
        self.processor = load_processor(folder, max_pixels)

    def ask(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[Reply]:
        """The reply to each question about its picture, in order."""
        from othink_mr1.grpo.rollout import greedy

        prompts = [test_prompt(self.task, question) for question in questions]
        completions = greedy(self.model, self.processor, list(pictures), prompts, self.max_new_tokens)
        return [read_reply(completion.text) for completion in completions]


def read_reply(completion: str) -> Reply:
    """Take a completion apart."""
    thinking = re.search(r"<think>(.*?)</think>", completion, re.DOTALL)
    return Reply(thinking.group(1).strip() if thinking else "", extract_answer(completion), completion)


def open_picture(source: Path | bytes, name: str | None = None) -> Image.Image:
    """An RGB picture from a file or its bytes, read as the pictures of the datasets are.

    Args:
        source: path or content of a PNG, JPEG or other file that Pillow reads.
        name: what an error calls it.

    Raises:
        UserError: missing, not a picture, or of a size that models refuse.
    """
    name = name or (str(source) if isinstance(source, Path) else "the picture")
    try:
        encoded = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}; give the path of a picture") from None
    try:
        picture = read_picture(encoded)
    except RowError as error:
        raise UserError(f"{name}: {str(error).replace('_', ' ')}") from None
    return Image.open(io.BytesIO(picture.encoded)).convert("RGB")
