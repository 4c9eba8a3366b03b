"""`decoders.npz`: label encodings, both decoders, their losses and greedy readings (float32)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import Rules, under
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

    cell = "attn/sd/selective_decoder.second_attention.attention_cell.rnn.weight_hh"
    head = make_head(
        "attention",
        charset,
        hidden=fixture.shape(cell)[1],
        max_length=fixture.shape("attn/index")[1] - 2,
    )
    context = fixture.shape("attn/sd/sequence_modeling.1.linear.weight")[0]
    head = dataclasses.replace(head, module=head.module.clone(context=context))
    fixture.exact("attn/num_class", charset.num_attention_classes)
    tokens = jnp.asarray(head.targets(words)["tokens"])[:, :-1]
    variables = _check_head(fixture, "attn", head, ATTENTION_RULES, words, frames, tokens)
    logits = head.module.apply(variables, frames, tokens)
    fixture.compare("attn/logits_teacher_forced", logits)
    steps = fixture.shape("attn/logits_greedy")[1]
    greedy = head.module.apply(variables, frames, steps, PUBLISHED_START, method="decode")
    fixture.compare("attn/logits_greedy", greedy)

    hidden = fixture.shape("ctc/sd/0.rnn.weight_hh_l0")[1]
    head = make_head("ctc", charset, hidden=hidden, max_length=fixture.shape("ctc/index")[1])
    fixture.exact("ctc/num_class", charset.num_ctc_classes)
    variables = _check_head(fixture, "ctc", head, CTC_RULES, words, frames)
    fixture.compare("ctc/logits", head.module.apply(variables, frames))
    # The published code spells special tokens out; our readings leave them out.
    likeliest = np.asarray(head.read(variables["params"], frames).tokens)
    fixture.exact("ctc/greedy", charset.decode_ctc(likeliest, specials=True))


def _check_head(
    fixture: Fixture,
    name: str,
    head: DecoderHead,
    rules: Rules,
    words: list[str],
    frames: Array,
    *fed: Array,
) -> dict[str, Any]:
    """Labels and loss of a decoder with its golden weights, which are returned."""
    targets = head.targets(words)
    fixture.exact(f"{name}/index", targets["tokens"])
    fixture.exact(f"{name}/length", targets["lengths"])
    one = [tokens[:1] for tokens in fed]
    shapes = template(head.module, jnp.zeros((1, *frames.shape[1:])), *one)
    variables = fixture.weights(f"{name}/sd/", shapes, rules, jnp.float32)
    total, count = head.loss(variables["params"], frames, targets)
    fixture.compare(f"{name}/loss", total / count)
    return variables
