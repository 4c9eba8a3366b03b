"""Published recognisers, converted: they read as their own code reads, and they are continued."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import finetune_recognizer
from rcmstr_jax.data.charset import ATTENTION_SPECIALS, CTC_SPECIALS, PRESETS, Charset
from rcmstr_jax.evaluation.results import Training
from rcmstr_jax.interop import published
from rcmstr_jax.interop.architectures import WrongKind
from rcmstr_jax.interop.files import read_arrays, write_arrays
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import read_saved
from rcmstr_jax.recognition.start import starting_point
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.files import from_json
from rcmstr_jax.training.plan import evaluation_plan
from tests.interop.test_bad_input import Convert, convert, launcher  # noqa: F401  (fixtures)

NOISE = np.random.default_rng(5).integers(0, 256, (5, 4, 12, 3)).astype(np.uint8)
IMAGES = [cv2.resize(image, (100, 32)) for image in NOISE]
CHARACTERS = PRESETS[36]


def torch_module():
    pytest.importorskip("torch", reason="PyTorch is not installed (torch extra)")
    from tests.interop import published_torch

    return published_torch


def their_reading(kind: str, logits: np.ndarray) -> list[tuple[str, list[float]]]:
    """Text and confidences as the published scripts decode: classes are 0 blank, or [GO] [s]."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    sure = (shifted / shifted.sum(-1, keepdims=True)).max(-1)
    words = []
    for row, probabilities in zip(logits.argmax(-1), sure, strict=True):
        read: list[tuple[str, float]] = []
        for t, (token, p) in enumerate(zip(row, probabilities, strict=True)):
            if kind == "trba" and token == 1:
                break
            if kind == "trbc" and t and token == row[t - 1]:
                if token:
                    read[-1] = (read[-1][0], max(read[-1][1], float(p)))
                continue
            first = 2 if kind == "trba" else 1
            if token >= first:
                read.append((CHARACTERS[token - first], float(p)))
        words.append(("".join(c for c, _ in read), [p for _, p in read]))
    return words


@pytest.mark.parametrize(
    ("kind", "channels", "rectify"), [("trba", 1, True), ("trbc", 3, False), ("trbc", 1, False)]
)
def test_a_pytorch_recogniser_reads_the_same_here(
    kind: str,
    channels: int,
    rectify: bool,
    convert: Convert,  # noqa: F811
    tmp_path: Path,
) -> None:
    theirs = torch_module()
    import torch

    specials = 2 if kind == "trba" else 1
    images = np.stack(IMAGES).astype(np.float32) / 127.5 - 1
    if channels == 1:
        images = images @ np.array([[0.299], [0.587], [0.114]], np.float32)
    images = images.transpose(0, 3, 1, 2)
    model = theirs.drawn(kind, len(CHARACTERS) + specials, images, rectify)
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(weights, tmp_path / "published.pth")
    assert convert(tmp_path / "published.pth", kind, tmp_path / "ours") == 0

    with torch.no_grad():
        logits = model(torch.tensor(images)).numpy()
    expected = their_reading(kind, logits)
    assert len({text for text, _ in expected}) > 1  # which images are told apart by

    recognizer = Recognizer.from_pretrained(tmp_path / "ours", batch_size=5)
    assert recognizer.encoder.image_size == (32, 100)
    found = recognizer(IMAGES)
    assert [word.text for word in found] == [text for text, _ in expected]
    for word, (_, sure) in zip(found, expected, strict=True):
        np.testing.assert_allclose(word.characters, sure, atol=2e-5)

    plan = evaluation_plan(finetune_recognizer.get_config())
    start = starting_point(plan, str(tmp_path / "ours"))  # it is continued from where it is
    assert start.head.name == recognizer.head.name and not start.is_random
    continued = dataclasses.replace(recognizer, encoder=start.encoder)
    assert continued(IMAGES) == found and start.decoder_params is not None
    assert from_json(Training, recognizer.description["train"]).labels.trained_on == 0

    back = tmp_path / "back.pth"
    assert convert(tmp_path / "ours", kind, back, "--nofused_bias") == 0
    again, first = read_arrays(back), {n: t.numpy() for n, t in model.state_dict().items()}
    derived = {n for n in first if "GridGenerator" in n}
    assert set(again) == set(first) - derived
    coloured = ("conv0_1.weight", "Network.conv.0.weight") if channels == 1 else ()
    for name in (n for n in again if not n.endswith((*coloured, "num_batches_tracked"))):
        np.testing.assert_array_equal(again[name], first[name], err_msg=name)


def golden_prediction(golden_dir: Path) -> tuple[dict[str, np.ndarray], Charset]:
    with np.load(golden_dir / "decoders.npz") as data:
        arrays = {name: data[name] for name in data.files}
    return arrays, Charset(str(arrays["charset"]))


def decoder_of(kind: str, flat: dict[str, np.ndarray], charset: Charset) -> dict:
    """The decoder's parameters of a converted recogniser; the encoder's play no part."""
    saved = published.to_recognizer(kind, flat, {"encoder": "cnn"}, charset, "golden")
    assert published.from_recognizer(kind, saved).keys() == flat.keys()
    return nested(saved.arrays, "decoder")


def test_the_golden_ctc_decoder_under_published_names(golden_dir: Path) -> None:
    """Two BiLSTMs and a linear map are the same in both; [PAD] [UNK] and space are taken out."""
    arrays, charset = golden_prediction(golden_dir)
    own = {n.removeprefix("ctc/sd/"): a for n, a in arrays.items() if n.startswith("ctc/sd/")}
    kept = [0, *range(len(CTC_SPECIALS), len(CTC_SPECIALS) + len(charset))]
    flat = {
        "params/decoder/kernel": own["2.weight"][kept].T,
        "params/decoder/bias": own["2.bias"][kept],
    }
    for name, array in own.items():
        layer, _, rest = name.partition(".")
        if layer != "2":
            ours = rest.replace("rnn.", "").replace("linear.weight", "linear/kernel")
            ours = ours.replace("linear.bias", "linear/bias").replace("_l0_reverse", "")
            if "rnn" in rest:
                side = "backward" if rest.endswith("_reverse") else "forward"
                ours = f"{side}_{ours.replace('_l0', '')}"
            flat[f"params/projector/layer_{layer}/{ours}"] = array.T if array.ndim > 1 else array
    head = make_head("ctc", charset, hidden=own["0.rnn.weight_hh_l0"].shape[1])
    params = decoder_of("trbc", flat, charset)
    frames = jnp.asarray(arrays["visual_feature"])
    logits = np.asarray(head.module.apply({"params": params}, frames))
    np.testing.assert_allclose(logits[..., kept], arrays["ctc/logits"][..., kept], atol=2e-6)
    silent = np.setdiff1d(np.arange(logits.shape[-1]), kept)
    assert np.all(logits[..., silent] == published.SILENT)
    reading = head.words(head.read(params, frames))
    theirs = charset.decode_ctc(np.array(kept)[arrays["ctc/logits"][..., kept].argmax(-1)])
    assert [word.text for word in reading] == theirs


def test_the_golden_attention_reader_under_published_names(golden_dir: Path) -> None:
    """Its LSTM and attention as Prediction.*, the gated features as what it attends over."""
    arrays, charset = golden_prediction(golden_dir)
    head = make_head("attention", charset, hidden=8)
    own = "attn/sd/selective_decoder.second_attention."
    reader = {n.removeprefix(own): a for n, a in arrays.items() if n.startswith(own)}
    ours, theirs = ATTENTION_SPECIALS, [2, 3]
    kept = [*theirs, *range(len(ours), len(ours) + len(charset))]
    dim = reader["attention_cell.rnn.weight_ih"].shape[1] - head.classes
    columns = [*range(dim), *(dim + token for token in kept)]
    flat = {
        "params/decoder/weight_ih": reader["attention_cell.rnn.weight_ih"][:, columns].T,
        "params/decoder/generator_kernel": reader["generator.weight"][kept].T,
        "params/decoder/generator_bias": reader["generator.bias"][kept],
        "params/projector/layer_0/forward_weight_hh": np.zeros((8, 32), np.float32),
    }
    wide = decoder_of("trba", flat, charset)["reader"]
    full = reader["attention_cell.rnn.weight_ih"].T
    np.testing.assert_array_equal(wide["weight_ih"][columns], full[columns])
    np.testing.assert_array_equal(
        wide["generator_kernel"][:, kept], reader["generator.weight"][kept].T
    )
    assert np.all(np.delete(wide["weight_ih"], columns, 0) == 0)
    # What is fed and written in reading are kept tokens alone, so that nothing else is looked up.
    tokens = arrays["attn/index"]
    assert set(tokens[:, :2].ravel()) <= set(kept)


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        (["FeatureExtraction.ConvNet.0.weight", "SequenceModeling.0.rnn.weight_hh_l0",
          "Prediction.weight"], "trbc", "None-VGG-BiLSTM-CTC.*trained anew"),
        (["FeatureExtraction.ConvNet.3.wgf_u.weight", "Prediction.weight"], "trbc",
         "None-RCNN-None-CTC"),
        (["FeatureExtraction.ConvNet.conv0_1.weight", "SequenceModeling.0.rnn.weight_hh_l0",
          "Transformation.x", "Prediction.weight"], "trba",
         "TPS-ResNet-BiLSTM-CTC.*give --kind=trbc"),
        (["FeatureExtraction.ConvNet.conv0_1.weight", "Prediction.attention_cell.i2h.weight"],
         "trba", "None-ResNet-None-Attn.*only TPS-ResNet-BiLSTM-Attn"),
    ],
)  # fmt: skip
def test_others_are_refused_by_name(
    names: list[str],
    kind: str,
    said: str,
    convert: Convert,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = {name: np.zeros((2, 2), np.float32) for name in names}
    with pytest.raises(WrongKind, match=said):
        published.refuse_others(kind, arrays)
    write_arrays(tmp_path / "a.npz", arrays)
    assert convert(tmp_path / "a.npz", kind, tmp_path / "out") == 2
    assert names and "this is " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_charsets_are_the_published_ones_or_given() -> None:
    assert published.charset_of("ctc", 37, None) == Charset.preset(36)
    assert published.charset_of("plain_attention", 96, None) == Charset.preset(94)
    assert published.charset_of("ctc", 4, Charset("xyz")).characters == "xyz"
    with pytest.raises(ConfigError, match="--charset is missing.*38 classes.*37 characters"):
        published.charset_of("ctc", 38, None)
    with pytest.raises(ConfigError, match="--charset has 3 characters.*for 36 characters"):
        published.charset_of("plain_attention", 38, Charset("xyz"))


def test_another_decoder_has_no_published_names(tmp_path: Path) -> None:
    saved = dataclasses.replace(
        read_saved(Path(published.__file__).parents[1] / "pretrained/compact"), place=Path("mine")
    )
    with pytest.raises(WrongKind, match="mine holds.*compact.*linear.*--kind=trbc is cnn and ctc"):
        published.from_recognizer("trbc", saved)
