"""The registered model as MLflow runs it: this file is saved with the model and executed where it is loaded.

Columns in: `image` (a picture's file, base64-encoded) and `question`. Columns out: `thinking`, `answer` (empty where
the model gave none) and `completion`.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from othink_mr1.errors import UserError
from othink_mr1.serving.answering import Answerer, open_picture


class VisionQuestionModel(mlflow.pyfunc.PythonModel):
    """Answers questions about pictures. `model_config` holds task, max_new_tokens, max_pixels and batch_size."""

    def load_context(self, context: Any) -> None:
        config = context.model_config
        self.batch_size = int(config["batch_size"])
        folder = Path(context.artifacts["weights"])
        self.answerer = Answerer(folder, config["task"], int(config["max_new_tokens"]), config.get("max_pixels"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        replies = []
        for start in range(0, len(model_input), self.batch_size):
            rows = model_input.iloc[start : start + self.batch_size]
            pictures = [decode(text, f"row {start + i}: image") for i, text in enumerate(rows["image"])]
            replies += self.answerer.ask(pictures, [str(question) for question in rows["question"]])
        columns = {
            "thinking": [reply.thinking for reply in replies],
            "answer": [reply.answer or "" for reply in replies],
            "completion": [reply.completion for reply in replies],
        }
        return pd.DataFrame(columns, index=model_input.index)


def decode(text: str, name: str) -> Any:
    """The picture behind a base64 text, with or without a `data:image/png;base64,` in front.

    Raises:
        UserError: not base64, or no picture.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name}: not base64; send the bytes of a picture's file, base64-encoded") from None
    return open_picture(content, name)


mlflow.models.set_model(VisionQuestionModel())
