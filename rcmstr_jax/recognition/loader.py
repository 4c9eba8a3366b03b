"""Reads word images with the recogniser in this folder: `python loader.py IMAGE...`.

Needs numpy, pillow and jax (model.stablehlo) or onnxruntime (model.onnx), and no other file.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# %% resizing


def resizing(old, new):
    """(new, old) matrix that averages where pixels become fewer, and is bicubic where more."""
    if new <= old:
        edges = np.arange(new + 1)[:, None] * old / new
        ends, begins = (
            np.minimum(edges[1:], np.arange(1, old + 1)),
            np.maximum(edges[:-1], range(old)),
        )
        return np.maximum(ends - begins, 0) * new / old
    places, matrix = (np.arange(new) + 0.5) * old / new - 0.5, np.zeros((new, old))
    for tap in range(-1, 3):
        columns = np.floor(places).astype(int) + tap
        x = np.abs(places - columns)  # Keys' cubic with a = -0.75
        near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
        np.add.at(matrix, (range(new), np.clip(columns, 0, old - 1)), np.where(x <= 1, near, far))
    return matrix


def load(path, size, max_pixels):
    """uint8 (height, width, 3), aspect ratio not kept."""
    with Image.open(path) as file:
        if file.width * file.height > max_pixels or getattr(file, "n_frames", 1) > 1:
            raise ValueError(f"{path}: {file.size} pixels; give one image of {max_pixels} at most")
        file.draft("RGB", size[::-1])
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        pixels = np.asarray(image.convert("RGB"), np.float64)
    smaller = [min(pair) for pair in zip(pixels.shape[:2], size, strict=True)]
    for new in (smaller, size):  # first what shrinks, then what grows
        rows, columns = (resizing(*pair) for pair in zip(pixels.shape[:2], new, strict=True))
        pixels = np.einsum("ah,hwc,bw->abc", rows, pixels, columns, optimize=True)
        pixels = np.clip(np.rint(pixels), 0, 255)
    return pixels.astype(np.uint8)


# %% stablehlo


def stablehlo(folder, about):
    """A function images -> classes, their probabilities, and the probability of each word."""
    from jax import export

    program = export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        weights = [arrays[str(number)] for number in range(len(arrays.files))]
    return lambda images: [np.asarray(result) for result in program.call(weights, images)]


# %% onnx


def onnx(folder, about):
    """A function images -> classes, their probabilities, and the probability of each word."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    whole = alignments if about["decoding"] == "frames" else sequence

    def run(images):
        (logs,) = session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})
        classes = logs.argmax(-1)
        sure = [
            whole(*pair, about["end"]) for pair in zip(logs.astype(float), classes, strict=True)
        ]
        return classes, np.exp(logs.max(-1)), np.array(sure)

    return run


def sequence(logs, classes, end):
    """Probability of the classes up to the first `end`, with it."""
    stops = np.flatnonzero(classes == end)
    return np.exp(logs.max(-1)[: stops[0] + 1 if len(stops) else None].sum())


def alignments(logs, classes, blank):
    """Probability of all alignments that spell what these classes spell (CTC)."""
    word = [c for i, c in enumerate(classes) if c != blank and (i == 0 or c != classes[i - 1])]
    states = np.array([blank, *(state for c in word for state in (c, blank))])
    skips = (states != blank) & (states != np.r_[blank, blank, states[:-2]][: len(states)])
    alpha = np.where(np.arange(len(states)) < 2, logs[0, states], -np.inf)
    for frame in logs[1:]:
        one, two = np.r_[-np.inf, alpha[:-1]], np.r_[-np.inf, -np.inf, alpha[:-2]][: len(alpha)]
        alpha = np.logaddexp(alpha, np.logaddexp(one, np.where(skips, two, -np.inf)))
        alpha = alpha + frame[states]
    return np.exp(np.logaddexp.reduce(alpha[-2:]))


# %% reading


class Reader:
    """Texts of images: `Reader(folder)(paths)`."""

    def __init__(self, folder=Path(__file__).parent):
        self.about = json.loads((Path(folder) / "recognizer.json").read_text(encoding="utf-8"))
        self.run = globals()[self.about["format"]](Path(folder), self.about)

    def __call__(self, paths):
        """A (text, confidence, confidence of every character) for each path."""
        size = self.about["image"]["height"], self.about["image"]["width"]
        images = [load(path, size, self.about["image"]["max_pixels"]) for path in paths]
        return self.words(*self.run(np.stack(images)))

    def words(self, classes, probabilities, whole):
        """The same of what the network says."""
        found = []
        for row, sure, confidence in zip(classes, probabilities, whole, strict=True):
            if self.about["decoding"] == "frames":  # a run of frames is as sure as the surest
                begins = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
                row, sure = row[begins], np.maximum.reduceat(sure, begins)
            else:
                row = row[: np.argmax(np.r_[row, self.about["end"]] == self.about["end"])]
            read = [(self.about["alphabet"][i], float(p)) for i, p in zip(row, sure, strict=False)]
            read = [(character, p) for character, p in read if character]
            text, sure = "".join(c for c, _ in read), [p for _, p in read]
            found.append((text, float(confidence), sure))
        return found


if __name__ == "__main__":
    for path, (text, confidence, _) in zip(sys.argv[1:], Reader()(sys.argv[1:]), strict=True):
        print(f"{path}\t{text}\t{confidence:.4f}")
