"""A finished project with invented completions, and a small real model."""

from pathlib import Path

import pytest

from tests.report.fake_project import make


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables included; 40 test items a task."""
    return make(tmp_path_factory.mktemp("project"), items=40, image_size=48)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2-VL of the demo's kind, saved as steps.base_model saves it."""
    import torch

    from othink_mr1.models.loading import save_model
    from othink_mr1.models.tiny import build_model, build_processor

    torch.manual_seed(0)
    texts = ["How many items are there in the image? <think> 1 2 3 </think> <answer> 3 </answer> angle triangle"] * 4
    processor = build_processor(texts)
    model = build_model(processor, hidden_size=32, num_hidden_layers=2, vision_depth=1, vision_embed_dim=32)
    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(model, processor, folder)
    return folder
