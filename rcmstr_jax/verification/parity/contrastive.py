"""`relational_contrastive.npz`: whole steps of relational contrastive learning, terms to weights.

Runs the passes, the objective, the queues and the optimiser of `training/`; only the draws (views
and permutations) are those of the file instead of drawn ones.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import BRANCH
from rcmstr_jax.interop.torch_weights import export_weights, flatten
from rcmstr_jax.ssl.momentum import ema_update
from rcmstr_jax.ssl.objective import (
    HIERARCHIES,
    PAIRS,
    ContrastOptions,
    contrastive_objective,
    contrastive_terms,
    term_queue,
)
from rcmstr_jax.ssl.queue import KeyQueue, enqueue
from rcmstr_jax.ssl.rearrange import align_frames, rearrange_images
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import OptimizerPlan
from rcmstr_jax.training.pretrain_step import encode_keys, online_losses
from rcmstr_jax.training.state import PretrainState
from rcmstr_jax.verification.parity.fixture import Fixture
from rcmstr_jax.verification.parity.networks import branch_network

FILE = "relational_contrastive.npz"
RULES = under("(?:params|batch_stats)/", "", BRANCH)
State = Any  # PretrainState; flax's `replace` is unknown to type checkers
GROUP = 2  # images that exchange blocks
ALPHA = 0.3  # weight of the relation terms in both totals
# Weights that a fixture must hold after the first step and after the SGD steps; those of the last
# block and the last BiLSTM are named after the depth.
MOMENTUM_AFTER = ("FeatureExtraction.ConvNet.conv0_1.weight", "frame_fc.weight", "frame_fc.bias")
ONLINE_AFTER = (
    *MOMENTUM_AFTER,
    "FeatureExtraction.ConvNet.layer4.{block}.conv2.weight",
    "SequenceModeling.{layer}.linear.weight",
    "SequenceModeling.{layer}.linear.bias",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same between steps: network, both views, blocks, factor of the average."""

    network: Any
    images: tuple[Array, Array]
    blocks: int
    momentum: float

    def encode(self, state: State) -> tuple[State, dict[str, Array]]:
        """Momentum update, then keys, then queues: the first half of a step."""
        params = ema_update(state.momentum_params, state.params, self.momentum)
        variables = {"params": params, "batch_stats": state.momentum_batch_stats}
        keys, all_keys, statistics = encode_keys(self.network, variables, self.images[1])
        queues = {
            name: enqueue(queue, einops.rearrange(all_keys[name], "b n d -> (b n) d"))
            for name, queue in state.queues.items()
        }
        moved = {"momentum_params": params, "momentum_batch_stats": statistics, "queues": queues}
        return state.replace(**moved), keys

    def gradients(
        self,
        before: State,
        after: State,
        keys: dict[str, Array],
        permutation: Array,
        contrast: ContrastOptions,
    ) -> tuple[tuple[Array, Any], Any]:
        """The second half: (total loss, (running statistics, metrics)), and online gradients."""
        contents = {name: queue.keys for name, queue in after.queues.items()}
        inputs = {"view_q": self.images[0], "permutation": permutation}
        return jax.value_and_grad(online_losses, argnums=1, has_aux=True)(
            self.network,
            before.params,
            before,
            inputs,
            keys,
            contents,
            contrast=contrast,
            blocks=self.blocks,
        )

    def step(
        self,
        state: State,
        permutation: Array,
        contrast: ContrastOptions,
        optimizer: optax.GradientTransformation,
    ) -> tuple[State, Array]:
        """Both halves and the update; returns the loss as well."""
        after, keys = self.encode(state)
        (total, (statistics, _)), gradients = self.gradients(
            state, after, keys, permutation, contrast
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return after.replace(params=params, opt_state=opt_state, batch_stats=statistics), total


def check(fixture: Fixture) -> None:
    """Terms, totals, gradients, queues, momentum weights, and three SGD steps."""
    images = fixture.images("im_q"), fixture.images("im_k")
    batch = images[0].shape[0]
    subwords = fixture.shape("subword/positive_logit")[0] // (2 * batch)
    blocks = fixture.shape("permutation")[0] // GROUP
    network = branch_network(fixture, "sd/encoder_q.", subwords)
    run = Run(network, images, blocks, momentum=float(fixture.raw("momentum")))
    start = _start_state(fixture, run)
    contrast = ContrastOptions(
        temperature=float(fixture.raw("temperature")),
        relation_temperature=float(fixture.raw("relation_temperature")),
        alpha=ALPHA,
        chunk=512,
    )
    all_pairs = dataclasses.replace(contrast, pairs=PAIRS)
    permutation = _permutation(fixture, "permutation", fixture.raw("permutation"), batch)
    both = dataclasses.replace(all_pairs, beta=1.0)
    state, keys = _check_terms(fixture, run, start, permutation, both)
    # The whole objective with all pairs, and its gradient for every online parameter.
    gradients_of = jax.jit(functools.partial(run.gradients, contrast=all_pairs))
    (total, _), gradients = gradients_of(start, state, keys, permutation)
    fixture.compare("total_loss_batchmean_with_frame_word", total)
    for name, value in export_weights(flatten({"params": gradients}), RULES).items():
        fixture.compare(f"grad_batchmean/{name}", value, kind="deep gradient")
    # Steps of SGD.
    averaged = dataclasses.replace(contrast, kl_reduction="mean")
    optimizer, _ = make_optimizer(OptimizerPlan(name="sgd", peak=float(fixture.raw("sgd/lr"))))
    step = jax.jit(functools.partial(run.step, contrast=averaged, optimizer=optimizer))
    final = start = start.replace(opt_state=optimizer.init(start.params))
    fixture.compare("total_loss_mean", step(start, permutation)[1])
    losses = []
    for order in fixture.raw("sgd/permutations"):
        final, total = step(final, _permutation(fixture, "sgd/permutations", order, batch))
        losses.append(total)
    fixture.compare("sgd/losses", jnp.stack(losses), kind="trajectory")
    _check_after(fixture, start, state, final)


def _start_state(fixture: Fixture, run: Run) -> State:
    shapes = template(run.network, jnp.zeros((1, *run.images[0].shape[1:])))
    online, momentum = (
        fixture.weights(f"sd/encoder_{branch}.", shapes, RULES) for branch in ("q", "k")
    )
    counts = {name: fixture.shape(f"{name}/positive_logit")[0] // 2 for name in HIERARCHIES}
    queues = {}
    for name in HIERARCHIES:
        keys = fixture.array(f"sd/{name}_queue").T
        pointer = int(fixture.raw(f"sd/{name}_queue_ptr").item())
        if _pointers_are_final(fixture):
            pointer -= counts[name] * len(fixture.raw("sgd/permutations"))
        queues[name] = KeyQueue(keys, jnp.asarray(pointer % keys.shape[0], jnp.int32))
    zero = jnp.zeros((), jnp.int32)
    return PretrainState(
        step=zero,
        params=online["params"],
        frozen_params={},
        momentum_params=momentum["params"],
        batch_stats=online["batch_stats"],
        momentum_batch_stats=momentum["batch_stats"],
        opt_state=(),
        queues=queues,
        key_data=jax.random.key_data(jax.random.key(0)),
        skipped=zero,
        skipped_in_row=zero,
    )


def _pointers_are_final(fixture: Fixture) -> bool:
    """Whether `sd/*_queue_ptr` and `after/*_queue*` hold the end of the SGD steps.

    The script that wrote the files kept views of buffers that PyTorch updates in place, so what it
    saved last is what they hold. A single step cannot leave all pointers where they were.
    """
    return all(
        np.array_equal(fixture.raw(f"sd/{h}_queue_ptr"), fixture.raw(f"after/{h}_queue_ptr"))
        for h in HIERARCHIES
    )


def _permutation(fixture: Fixture, name: str, permutation: np.ndarray, batch: int) -> Array:
    """One permutation for every group of the batch, as the ancestor draws it."""
    if sorted(permutation) != list(range(len(permutation))):
        fixture.fail(name, f"{permutation} is no permutation")
        permutation = np.arange(len(permutation))
    return jnp.asarray(np.tile(permutation, (batch // GROUP, 1)), jnp.int32)


def _check_terms(
    fixture: Fixture,
    run: Run,
    before: State,
    permutation: Array,
    options: ContrastOptions,
) -> tuple[State, dict[str, Array]]:
    """Every term by itself, the contrast between hierarchies included, in both reductions."""

    @jax.jit
    def compute(before: State, permutation: Array) -> tuple[Any, Any, Any]:
        variables = {"params": before.params, "batch_stats": before.batch_stats}

        def project(images: Array) -> Array:
            frames, _ = run.network.apply(
                variables, images, train=True, method="project", mutable=["batch_stats"]
            )
            return frames

        after, keys = run.encode(before)
        shuffled = rearrange_images(run.images[0], permutation, blocks=run.blocks)
        aligned = align_frames(project(shuffled), permutation, blocks=run.blocks)
        views = [
            run.network.apply(variables, frames, method="predict")
            for frames in (project(run.images[0]), aligned)
        ]
        terms = contrastive_terms(
            {name: jnp.stack([view[name] for view in views]) for name in HIERARCHIES},
            keys,
            {name: queue.keys for name, queue in before.queues.items()},
            {name: queue.keys for name, queue in after.queues.items()},
            options,
        )
        return after, keys, terms

    after, keys, terms = compute(before, permutation)
    sizes = {name: after.queues[term_queue(name)].keys.shape[0] for name in terms}
    for reduction in ("mean", "batchmean"):
        reduced = dataclasses.replace(options, kl_reduction=reduction)
        _, parts = contrastive_objective(terms, sizes, reduced)
        for name in terms:
            golden = name.replace("_", "_to_")
            fixture.compare(f"{golden}/relation_kl_{reduction}", parts[f"relation_kl/{name}"])
            if reduction == "mean":
                fixture.compare(f"{golden}/nce", parts[f"nce/{name}"])
    for name, term in terms.items():
        # Between hierarchies our rows are (window, image x part), the golden ones image by image.
        logits = term.positive_logit if name in HIERARCHIES else term.positive_logit.T
        fixture.compare(f"{name.replace('_', '_to_')}/positive_logit", logits.reshape(-1))
    return after, keys


def _check_after(fixture: Fixture, start: State, first: State, final: State) -> None:
    """Queues, pointers and weights after the first step and after the SGD steps."""
    queues = final.queues if _pointers_are_final(fixture) else first.queues
    for name, queue in queues.items():
        fixture.compare(f"after/{name}_queue", queue.keys.T, kind="trajectory")
        fixture.exact(f"after/{name}_queue_ptr", np.asarray(queue.pointer).reshape(1))
    trees = {
        "after/encoder_k.": first.momentum_params,
        "sgd/after/encoder_k.": final.momentum_params,
        "sgd/after/encoder_q.": final.params,
    }
    before = export_weights(flatten({"params": start.momentum_params}), RULES)
    last = {
        "block": sum(name.startswith("layer4_") for name in start.params["encoder"]) - 1,
        "layer": len(start.params["projector"]) - 1,
    }
    for prefix, tree in trees.items():
        ours = export_weights(flatten({"params": tree}), RULES)
        wanted = ONLINE_AFTER if prefix.endswith("q.") else MOMENTUM_AFTER
        required = {name.format(**last) for name in wanted}
        present = {name.removeprefix(prefix) for name in fixture.names(prefix)} & set(ours)
        for name in sorted(required | present):
            stale = before[name] if prefix.startswith("after/") else None
            kind = "trained weight" if prefix.endswith("q.") else "trajectory"
            fixture.compare(f"{prefix}{name}", ours[name], kind=kind, before=stale)
