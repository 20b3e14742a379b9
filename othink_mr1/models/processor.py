"""Pictures and questions to tensors, for Qwen2-VL, Qwen2.5-VL and Qwen3-VL, with torchvision and without.

transformers' own processor for these models also builds a video processor, which needs torchvision; ours has
the tokenizer and the image processor alone, and always the Pillow one, so that a picture gives the same
numbers on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from othink_mr1.errors import UserError
from othink_mr1.models.folder import read_json

# These delimit turns and pictures. A model that writes one would break its own next forward pass (R1-V#91).
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
IMAGE_TOKEN = "<|image_pad|>"


@dataclass
class PromptBatch:
    """`B` prompts, left-padded to `P` tokens, with their pictures' patches one after the other."""

    input_ids: torch.Tensor  # (B, P)
    attention_mask: torch.Tensor  # (B, P), 1 for tokens and 0 for padding
    mm_token_type_ids: torch.Tensor  # (B, P), 1 where a picture's token stands
    pixel_values: torch.Tensor  # (patches of all pictures, patch values)
    image_grid_thw: torch.Tensor  # (pictures, 3)

    def to(self, device: torch.device | str) -> "PromptBatch":
        return PromptBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.input_ids)

    @staticmethod
    def join(batches: Sequence["PromptBatch"], pad: int) -> "PromptBatch":
        """The prompts of several batches, one after the other, padded on the left with the token `pad`."""
        longest = max(batch.input_ids.shape[1] for batch in batches)

        def padded(name: str, value: int) -> torch.Tensor:
            rows = [getattr(batch, name) for batch in batches]
            return torch.cat([F.pad(row, (longest - row.shape[1], 0), value=value) for row in rows])

        return PromptBatch(
            input_ids=padded("input_ids", pad),
            attention_mask=padded("attention_mask", 0),
            mm_token_type_ids=padded("mm_token_type_ids", 0),
            pixel_values=torch.cat([batch.pixel_values for batch in batches]),
            image_grid_thw=torch.cat([batch.image_grid_thw for batch in batches]),
        )


class Processor:
    """Tokenizer and image processor of one model.

    Saved and loaded in the files of a Hugging Face model folder, so that other tools read what it writes.
    """

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    @classmethod
    def from_pretrained(cls, folder: str | Path, max_pixels: int | None = None) -> "Processor":
        """Reads tokenizer, chat template and image processor from a model folder.

        Args:
            folder: a folder in Hugging Face's layout.
            max_pixels: larger pictures are scaled down to this many pixels; None keeps the folder's own limit.

        Raises:
            UserError: a file is missing or does not fit.
        """
        folder = Path(folder)
        for name in ("tokenizer_config.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: {name} is missing; a Qwen-VL model folder with its processor is needed")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except Exception as error:  # the tokenizers' own error type derives from Exception alone
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: its tokenizer or image processor cannot be read ({reason})") from error
        if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
            # Where the first Qwen2-VL has it, for processors; the tokenizer alone does not look there.
            tokenizer.chat_template = read_json(folder / "chat_template.json").get("chat_template")
        if max_pixels is not None:
            shortest = image_processor.size["shortest_edge"]
            image_processor.size = {"shortest_edge": min(shortest, max_pixels), "longest_edge": max_pixels}
        if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
            raise UserError(f"{folder}: the tokenizer has no {IMAGE_TOKEN} token; a Qwen-VL tokenizer is needed")
        if tokenizer.chat_template is None:
            raise UserError(
                f"{folder}: the tokenizer has no chat template (chat_template.jinja, or in tokenizer_config.json)"
            )
        return cls(tokenizer, image_processor)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def chat(self, text: str, pictures: int = 1) -> str:
        """The prompt up to where the assistant's answer begins: the pictures, then the text."""
        content: list[dict[str, str]] = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode(self, texts: Sequence[str], pictures: Sequence[Image.Image | Sequence[Image.Image]]) -> PromptBatch:
        """`B` user turns, each with one picture or several, ready for generation.

        Args:
            texts: the text of each user turn, without chat markup.
            pictures: for each turn its picture, or the list of its pictures.
        """
        groups = [[p] if isinstance(p, Image.Image) else list(p) for p in pictures]
        flat = [p for group in groups for p in group]
        vision = self.image_processor(images=flat, return_tensors="pt")
        grid = vision["image_grid_thw"]
        counts = iter((grid.prod(-1) // self.image_processor.merge_size**2).tolist())
        rows = [self._tokens(text, [next(counts) for _ in group]) for text, group in zip(texts, groups, strict=True)]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return PromptBatch(
            input_ids=input_ids,
            attention_mask=mask,
            mm_token_type_ids=((input_ids == self.image_token_id) & mask.bool()).int(),
            pixel_values=vision["pixel_values"],
            image_grid_thw=grid,
        )

    def _tokens(self, text: str, picture_tokens: list[int]) -> list[int]:
        # Each picture's single placeholder becomes as many as it has features. The tokenizer sees the prompt as a
        # whole; a placeholder written in a question's own text is cut out by the data checks, and here as well.
        text = text.replace(IMAGE_TOKEN, "")
        ids = self.tokenizer(self.chat(text, len(picture_tokens)), add_special_tokens=False)["input_ids"]
        repeats = iter(picture_tokens)
        return [t for token in ids for t in ([token] * next(repeats) if token == self.image_token_id else [token])]

    def answer_tokens(self, text: str) -> list[int]:
        """The tokens of an assistant's turn with its end."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def decode(self, ids: torch.Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def forbidden_tokens(self) -> list[int]:
        """Tokens that must never be sampled: those of pictures, and padding (unless it also ends a turn)."""
        known = self.tokenizer.get_vocab()
        ids = {known[t] for t in VISION_TOKENS if t in known} | {self.tokenizer.pad_token_id}
        return sorted(ids - {self.tokenizer.eos_token_id, None})
