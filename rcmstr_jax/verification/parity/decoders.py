"""`decoders.npz`: label encodings, both decoders, their losses and greedy readings (float32)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import ATTENTION_DECODER, CTC_DECODER
from rcmstr_jax.recognition.heads import DecoderHead, make_head
from rcmstr_jax.verification.parity.fixture import Fixture

FILE = "decoders.npz"
# Greedy decoding of the published code starts here, [PAD]; ours would start from [SOS].
PUBLISHED_START = 0
ATTENTION_RULES = under("params/", "", ATTENTION_DECODER)
CTC_RULES = under("params/", "", CTC_DECODER)


def check(fixture: Fixture) -> None:
    """Encodes the words, and runs both decoders on the frames with the golden weights."""
    charset = Charset(str(fixture.raw("charset")))
    words = [str(word) for word in fixture.raw("words")]
    frames = fixture.array("visual_feature", jnp.float32)
    _attention(fixture, charset, words, frames)
    _ctc(fixture, charset, words, frames)


def _attention(fixture: Fixture, charset: Charset, words: list[str], frames: Array) -> None:
    max_length = fixture.shape("attn/index")[1] - 2
    reader = "attn/sd/selective_decoder.second_attention.attention_cell.rnn.weight_hh"
    hidden = fixture.shape(reader)[1]
    context = fixture.shape("attn/sd/sequence_modeling.1.linear.weight")[0]
    head = make_head("attention", charset, hidden=hidden, max_length=max_length)
    head = dataclasses.replace(head, module=head.module.clone(context=context))
    fixture.exact("attn/num_class", charset.num_attention_classes)
    targets = _labels(fixture, head, words, "attn")

    tokens = jnp.asarray(targets["tokens"])
    shapes = template(head.module, jnp.zeros((1, *frames.shape[1:])), tokens[:1, :-1])
    variables = fixture.weights("attn/sd/", shapes, ATTENTION_RULES, jnp.float32)
    logits = head.module.apply(variables, frames, tokens[:, :-1])
    fixture.compare("attn/logits_teacher_forced", logits)
    total, count = head.loss(variables["params"], frames, targets)
    fixture.compare("attn/loss", total / count)
    steps = fixture.shape("attn/logits_greedy")[1]
    greedy = head.module.apply(variables, frames, steps, PUBLISHED_START, method="decode")
    fixture.compare("attn/logits_greedy", greedy)


def _ctc(fixture: Fixture, charset: Charset, words: list[str], frames: Array) -> None:
    hidden = fixture.shape("ctc/sd/0.rnn.weight_hh_l0")[1]
    max_length = fixture.shape("ctc/index")[1]
    head = make_head("ctc", charset, hidden=hidden, max_length=max_length)
    fixture.exact("ctc/num_class", charset.num_ctc_classes)
    targets = _labels(fixture, head, words, "ctc")

    shapes = template(head.module, jnp.zeros((1, *frames.shape[1:])))
    variables = fixture.weights("ctc/sd/", shapes, CTC_RULES, jnp.float32)
    logits = head.module.apply(variables, frames)
    fixture.compare("ctc/logits", logits)
    total, count = head.loss(variables["params"], frames, targets)
    fixture.compare("ctc/loss", total / count)
    # The published code spells special tokens out; our readings leave them out.
    likeliest = np.asarray(head.read(variables["params"], frames).tokens)
    fixture.exact("ctc/greedy", charset.decode_ctc(likeliest, specials=True))


def _labels(
    fixture: Fixture, head: DecoderHead, words: list[str], name: str
) -> dict[str, np.ndarray]:
    targets = head.targets(words)
    fixture.exact(f"{name}/index", targets["tokens"])
    fixture.exact(f"{name}/length", targets["lengths"])
    return targets
