"""Where the pictures of a command go."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcmstr_jax.dense.answering import picture_paths


def test_pictures_are_called_as_images_and_numbered_where_two_are_alike(tmp_path: Path) -> None:
    images = ["a/x.jpg", "b/x.png", "x-2.png", "-", "b/x.gif"]
    names = [path.name for path in picture_paths(images, tmp_path)]
    assert names == ["x.png", "x-2.png", "x-2-2.png", "input.png", "x-3.png"]


def test_an_image_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds x.png, which is an image to be used"):
        picture_paths([str(tmp_path / "x.png")], tmp_path)
    assert picture_paths([str(tmp_path / "x.jpg")], tmp_path) == [tmp_path / "x.png"]
    with pytest.raises(ValueError, match=r"--out=.*file is a file: give a folder"):
        picture_paths(["a.png"], tmp_path / "file")
