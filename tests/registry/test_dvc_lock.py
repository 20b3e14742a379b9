"""dvc.lock is written in place by DVC: whoever reads it at the wrong moment finds less, never an error."""

from pathlib import Path

from othink_mr1.dvc_lock import read_stage, read_stages

WHOLE = """schema: '2.0'
stages:
  resolve:
    cmd: python -m steps.resolve
    outs:
    - path: .othink/params.yaml
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
  train@sft-counting:
    cmd: python -m steps.train --method sft --task counting
    deps:
    - path: models/base
      hash: md5
      md5: 00000000000000000000000000000000.dir
    outs:
    - path: models/sft-counting
      hash: md5
      md5: 11111111111111111111111111111111.dir
"""


def test_every_cut_of_the_file_reads_without_an_error(tmp_path: Path) -> None:
    for length in range(len(WHOLE) + 1):
        (tmp_path / "dvc.lock").write_text(WHOLE[:length])
        assert set(read_stages(tmp_path)) <= {
            name[:end] for name in ("resolve", "train@sft-counting") for end in range(1, len(name) + 1)
        }
    found = read_stage(tmp_path, "train@sft-counting")
    assert found is not None
    assert found.outs == {"models/sft-counting": "11111111111111111111111111111111.dir"}
    assert found.deps == {"models/base": "00000000000000000000000000000000.dir"}


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert read_stages(tmp_path) == {}
    assert read_stage(tmp_path, "resolve") is None
