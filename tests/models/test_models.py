"""The tiny model's files are those of a Qwen2-VL; folders that are no model are refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from othink_mr1.errors import UserError
from othink_mr1.grpo.rollout import greedy
from othink_mr1.models.habits import Habits, mixture, prompt_and_answers
from othink_mr1.models.loading import load_model, load_processor, save_model
from othink_mr1.models.processor import IMAGE_TOKEN
from tests.grpo.families import model, processor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tools = processor()
    save_model(model("qwen2_vl", tools), tools, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_answers_as_before(folder: Path) -> None:
    picture, question = Image.new("RGB", (40, 30), "red"), "How many \\frac{1}{2} 个?"
    tools = processor()
    before = greedy(model("qwen2_vl", tools), tools, [picture], [question], 12)
    after = greedy(load_model(folder, device="cpu"), load_processor(folder), [picture], [question], 12)
    assert after == before


def test_transformers_reads_the_folder_by_itself(folder: Path) -> None:
    assert AutoConfig.from_pretrained(folder).model_type == "qwen2_vl"
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoImageProcessor.from_pretrained(folder).merge_size == 2
    assert AutoModelForImageTextToText.from_pretrained(folder).config.text_config.hidden_size == 64
    assert not list(folder.glob("*.bin"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_pictures_of_every_mode_and_size_become_tokens(mode: str) -> None:
    tools = processor()
    batch = tools.encode(["Count."] * 2, [Image.new(mode, (300, 90)), Image.new("RGB", (28, 28))])
    picture_tokens = (batch.input_ids == tools.image_token_id).sum().item()
    assert picture_tokens == (batch.image_grid_thw.prod(-1) // 4).sum().item()
    assert torch.equal(batch.mm_token_type_ids.bool(), batch.input_ids == tools.image_token_id)
    assert (batch.attention_mask[:, -1] == 1).all()


def test_a_placeholder_in_a_question_is_no_picture() -> None:
    tools = processor()
    batch = tools.encode([f"Count. {IMAGE_TOKEN}{IMAGE_TOKEN}"], [Image.new("RGB", (32, 32))])
    assert (batch.input_ids == tools.image_token_id).sum() == batch.image_grid_thw.prod() // 4


def test_any_text_survives_the_tokenizer() -> None:
    tools = processor()
    text = "m\\widehat{AB} = 2√3 — 65π, 个 <think> 1 2 </think>\n<answer> 70° </answer>"
    assert tools.decode(torch.tensor(tools.answer_tokens(text))) == text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "config.json").write_text(json.dumps({"model_type": "bert"})), "model_type is 'bert'"),
        (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 100), "model"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(folder: Path, spoil, message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "preprocessor_config.json"])
def test_a_missing_processor_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_processor(folder)


def test_max_pixels_limits_the_picture_tokens(folder: Path) -> None:
    picture = Image.new("RGB", (400, 400))
    few = load_processor(folder, max_pixels=16 * 16).encode(["Count."], [picture])
    many = load_processor(folder).encode(["Count."], [picture])
    assert few.image_grid_thw.prod() < many.image_grid_thw.prod()


def test_the_mixture_has_its_shares_and_enumerations_are_right() -> None:
    habits = Habits(enumerate=0.4, guess=0.3, blurt=0.2, direct=0.1)
    samples = mixture(0, {"counting": 60, "geometry": 60}, 48, habits, 5, batch_size=12, batches=10)
    again = mixture(0, {"counting": 60, "geometry": 60}, 48, habits, 5, batch_size=12, batches=10)
    assert [s["targets"] for s in samples] == [s["targets"] for s in again]
    direct = sum("<answer>" not in s["targets"][0] for s in samples) / len(samples)
    assert 0.04 < direct < 0.18
    targets = [t for s in samples for t in s["targets"] if "<answer>" in t]
    thought = [t for t in targets if "<think>" in t and "glance" not in t]
    assert 0.38 < len(thought) / len(targets) < 0.51
    counted = [t for t in thought if "°" not in t and t.count("<think> 1")]
    assert counted
    for target in counted[:50]:
        steps = target.split("<think>")[1].split("</think>")[0].split()
        if steps == [str(i + 1) for i in range(len(steps))]:
            assert f"<answer> {len(steps)} </answer>" in target


def test_a_guess_is_off_to_one_side() -> None:
    import numpy as np

    scene = {"problem": "How many?", "answer": "5", "count": 5, "thinking": "1 2 3 4 5"}
    _, guesses = prompt_and_answers(scene, "counting", Habits(0, 0, 1, 0), 200, np.random.default_rng(0))
    assert set(guesses) == {"<answer> 4 </answer>", "<answer> 5 </answer>"}
    assert 0.8 < guesses.count("<answer> 4 </answer>") / 200 < 1
