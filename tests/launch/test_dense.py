"""Dense tasks as a user types them: trained, scored again, pictures of a folder of crops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.launch.test_commands import launch  # noqa: F401
from tests.recognition.toy_words import WORDS, picture

TINY = ("encoder=vit", "width=8", "depth=1", "heads=1", "image_width=48")


def test_a_network_is_trained_scored_and_enlarges_a_folder(launch, tmp_path: Path) -> None:  # noqa: F811
    workdir = tmp_path / "run"
    asked = ["--config=super_resolution:test", "--pretrained=random", f"--workdir={workdir}"]
    asked += [f"--config.model.{field}" for field in TINY]
    asked += ["--config.train.batch_size=16", "--config.compilation_cache=off"]
    done = launch("evaluate.py", *asked)
    assert done.code == 0, done.err
    results = json.loads((workdir / "results.json").read_text())
    (scored,) = results["scored"]
    assert [row["method"] for row in scored["rows"]] == ["bicubic", "network"]
    assert results["train"]["trained_on"] == 12 and results["images_per_second"] > 0
    assert "bicubic" in (workdir / "results.md").read_text() and "PSNR dB" in done.out
    assert (workdir / "pictures/set_0.png").is_file() and not (workdir / "checkpoints").exists()

    again = launch("evaluate.py", *asked)
    assert again.code == 0 and "is finished: it is scored again" in again.err
    assert json.loads((workdir / "results.json").read_text())["scored"] == results["scored"]
    other = launch("evaluate.py", *asked, "--config.train.learning_rate=1.0")
    assert other.code == 2 and "holds a network of another run" in other.err

    crops, out = tmp_path / "crops", tmp_path / "pictures"
    crops.mkdir()
    for text in WORDS[:3]:
        (crops / f"{text}.png").write_bytes(picture(text))
    (crops / "broken.png").write_bytes(picture("gnu")[:100])
    (crops / "notes.txt").write_text("no image\n")
    checkpoint = f"--checkpoint={workdir}"
    done = launch("enhance.py", checkpoint, f"--out={out}", "--batch_size=4", str(crops))
    assert done.code == 0, done.err
    written = sorted(path.name for path in out.iterdir())
    assert written == sorted(f"{text}.png" for text in WORDS[:3])
    with Image.open(out / "cat.png") as enlarged:
        assert enlarged.size == (128, 32) and np.asarray(enlarged).std() > 10
    assert "broken.png\t(not used: truncated PNG)" in done.out
    assert "3 pictures written" in done.err and "1 unreadable, 1 other files skipped" in done.err
    wrong = launch("segment.py", checkpoint, f"--out={out}", str(crops))
    assert wrong.code == 2 and "was trained for super_resolution: use launch/enhance" in wrong.err
