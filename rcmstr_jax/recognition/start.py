"""What a training starts from: an encoder and a fresh decoder, or a whole recogniser, continued."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.recognition.encoders import Encoder, planned_encoder, split_pretrained
from rcmstr_jax.recognition.heads import DecoderHead, make_charset, make_head, planned_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.saved import find_recognizer
from rcmstr_jax.runtime.digest import leaf_name, named_arrays, nested
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.plan import DecoderPlan, EvaluationPlan
from rcmstr_jax.training.plan_checks import CONTINUED
from rcmstr_jax.training.recognition_step import INIT_PURPOSE

logger = logging.getLogger(__name__)
Tree = Any
# Sizes of `make_head` that each decoder has.
SIZES = {"ctc": ("hidden",), "linear": (), "attention": ("hidden",)}
SIZES |= {"plain_attention": ("hidden",), "transformer": ("hidden", "depth")}


@dataclasses.dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
      encoder: to begin with.
      head: decoder and charset.
      is_random: whether the encoder is untrained.
      decoder_params: of the recogniser that is continued; None for a fresh decoder.
    """

    encoder: Encoder
    head: DecoderHead
    is_random: bool = False
    decoder_params: Tree = None


def starting_point(plan: EvaluationPlan, pretrained: str) -> Start:
    """Encoder and decoder that a training begins with.

    A recogniser is continued, encoder and decoder, unless `decoder.fresh` asks for a new decoder;
    with `random:` before it both are as untrained as its encoder once was. With another charset the
    rows of characters that both have are kept (see `carry_over`).

    Raises:
      ConfigError: nothing to start from, or a decoder that the recogniser does not have.
      ValueError: unknown charset.
    """
    is_random, named = split_pretrained(pretrained)
    home = find_recognizer(named) if named else None
    encoder = planned_encoder(pretrained, plan)
    if home is None or plan.decoder.fresh:
        if CONTINUED in (plan.decoder.name, plan.decoder.charset):
            field = "name" if plan.decoder.name == CONTINUED else "charset"
            why = "config.decoder.fresh=True" if home else f"--pretrained={pretrained} has none"
            raise ConfigError(
                f"config.decoder.{field}={CONTINUED!r} is that of a recogniser, but {why}: name a"
                " recogniser, or set both config.decoder.name and config.decoder.charset"
            )
        return Start(encoder, planned_head(plan.decoder), is_random)
    held = Recognizer.from_pretrained(named)
    head = continued_head(plan.decoder, held.head, named)
    if is_random:
        return Start(encoder, head, is_random)
    frames = jnp.zeros((2, *encoder.frames_shape()))
    key = jax.random.fold_in(jax.random.key(plan.seed), INIT_PURPOSE)
    params = carry_over(held.head, held.decoder_params, head, key, frames)
    old, new = set(held.head.charset.characters), set(head.charset.characters)
    told = (("fresh", new - old), ("dropped", old - new))
    changes = [f"{''.join(sorted(found))} {name}" for name, found in told if found]
    note = f"; characters: {', '.join(changes)}" if changes else ""
    logger.info("the recogniser of %s is continued, decoder %s%s", named, head.name, note)
    return Start(encoder, head, False, params)


def continued_head(plan: DecoderPlan, held: DecoderHead, named: str) -> DecoderHead:
    """The decoder of a recogniser, with the plan's charset, longest word and search.

    Raises:
      ConfigError: the plan wants another kind or size.
    """
    own = {"name": held.name, **{field: held.sizes[field] for field in SIZES[held.name]}}
    for field, value in own.items():
        planned = getattr(plan, field)
        if plan.name != CONTINUED and planned != value:
            raise ConfigError(
                f"config.decoder.{field}={planned!r}, but the recogniser of --pretrained={named}"
                f" has {value!r}: set --config.decoder.{field}={value} to continue it (or"
                f" --config.decoder.name={CONTINUED}), or --config.decoder.fresh=True for a new"
                " decoder on its encoder"
            )
    charset = held.charset if plan.charset == CONTINUED else make_charset(plan.charset)
    beams = plan.beams or held.beams
    return make_head(held.name, charset, max_length=plan.max_length, beams=beams, **held.sizes)


def carry_over(
    old: DecoderHead,
    params: Tree,
    new: DecoderHead,
    key: Key[Array, ""],
    frames: Float[Array, "batch frames dim"],
) -> Tree:
    """Parameters of a decoder for another charset: what both know stays, the rest is drawn.

    The output layer and the embeddings hold a row per class, [BLANK] and the like among them; rows
    of characters in common move to their new places. All other parameters stay as they are.

    Args:
      old: decoder and charset of `params`.
      params: to be carried over.
      new: the same decoder with another charset.
      key: of the fresh rows.
      frames: that the decoder reads; only their shape counts.

    Returns:
      Parameters of `new`.
    """
    if new.charset == old.charset:
        return params
    places = {c: i for i, c in enumerate(old.charset.characters)}
    specials = old.classes - len(old.charset)
    pairs = [(i, i) for i in range(specials)]
    for i, character in enumerate(new.charset.characters):
        if character in places:
            pairs.append((specials + i, specials + places[character]))
    to, of = np.array(pairs).T
    drawn = named_arrays({"decoder": jax.jit(new.init)(key, frames)})
    axes, result = class_axes(new, frames), {}
    for name, array in named_arrays({"decoder": params}).items():
        if name in axes:
            # Classes are the last rows; before them stand those of an LSTM's other inputs.
            fresh, kept = (np.moveaxis(x, axes[name], 0) for x in (drawn[name], array))
            others = len(kept) - old.classes
            fresh[:others] = kept[:others]
            fresh[others + to] = kept[others + of]
            array = drawn[name]
        result[name] = array
    return nested(result, "decoder")


def class_axes(head: DecoderHead, frames: Float[Array, "batch frames dim"]) -> dict[str, int]:
    """The axis of every parameter that grows with the charset, by its path below `decoder`."""
    known = set(head.charset.characters)
    other = next(chr(code) for code in range(ord("0"), 0x10000) if chr(code) not in known)
    larger = Charset(head.charset.characters + other)
    wider = make_head(head.name, larger, max_length=head.max_length, **head.sizes)
    shapes = [
        named_shapes({"decoder": jax.eval_shape(h.init, jax.random.key(0), frames)})
        for h in (head, wider)
    ]
    grown = ((n, np.flatnonzero(np.subtract(shapes[1][n], shapes[0][n]))) for n in shapes[0])
    return {name: int(axes[0]) for name, axes in grown if len(axes)}


def named_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shapes of a pytree's leaves by slash-separated path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): leaf.shape for path, leaf in leaves}
