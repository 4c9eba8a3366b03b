"""Scoring weights in the middle of training, on words that nothing is trained on."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.metrics.words import score_words
from rcmstr_jax.recognition.encoders import Encoder
from rcmstr_jax.recognition.heads import DecoderHead
from rcmstr_jax.runtime import parallel
from rcmstr_jax.training.plan import EvaluationPlan

logger = logging.getLogger(__name__)


class Validation:
    """A `training.loop.Watch` that keeps the best weights, and ends training that has none better.

    The best weights, of equals the first, lie in the state: an interrupted run goes on with them.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        encoder: Encoder | None,
        head: DecoderHead,
        inputs: np.ndarray,
        labels: list[str],
    ) -> None:
        """Takes the words; nothing is compiled before the first look.

        Args:
          plan: how often, for how long, and by which policy.
          encoder: what makes frames of `inputs`; None where they are frames.
          head: the decoder.
          inputs: frames, or uint8 images.
          labels: one per input.
        """
        self.every, self._patience = plan.train.validate_every, plan.train.patience
        self._head, self._policy = head, plan.policy
        self._inputs, self._labels = inputs, labels
        self._size = min(plan.eval_batch_size, len(inputs))

        def read(weights: Any, batch: Any) -> Any:
            params, frames = weights["params"], batch
            if encoder is not None:
                frames = encoder.infer(params["encoder"], weights["batch_stats"], batch)
            return head.read(params["decoder"], frames.astype(jnp.float32))

        self._rows = parallel.map_rows(read)

    def __call__(self, step: int, state: Any) -> tuple[Any, dict[str, float]]:
        """Scores the weights of a replicated state by word accuracy, of equals by 1-NED."""
        scores = self.score(parallel.unreplicate(state.weights()))
        found = np.array([scores["word_accuracy"], scores["one_minus_ned"]], np.float32)
        logger.info(
            "validation at step %d: word accuracy %.2f %%, 1-NED %.2f %%", step, found[0], found[1]
        )
        best = state.best
        if tuple(found) <= tuple(parallel.unreplicate(best["score"])):
            best = {**best, "misses": best["misses"] + 1}
        else:
            # Copies, because the next call of the step reuses the state's memory.
            new = {"score": found, "step": np.int32(step), "misses": np.int32(0)}
            best = {
                "weights": jax.tree.map(jnp.copy, state.weights()),
                **parallel.replicate(new),
            }
        numbers = {f"validation/{name}": value for name, value in scores.items()}
        return state.replace(best=best), numbers

    def ended(self, state: Any) -> bool:
        """Whether `patience` looks in a row found nothing better."""
        misses = int(parallel.unreplicate(state.best["misses"]))
        if self._patience and misses >= self._patience:
            logger.info("no better for %d validations: training ends", self._patience)
            return True
        return False

    def score(self, weights: Any) -> dict[str, float]:
        """`word_accuracy` and `one_minus_ned` of weights on the host, in %."""
        read, words = self._rows(weights), []
        for batch, count in parallel.whole_batches(self._inputs, self._size):
            words += [word.text for word in self._head.words(read(batch))[:count]]
        score = score_words(words, self._labels, policy=self._policy)
        return {
            "word_accuracy": 100 * score.word_accuracy,
            "one_minus_ned": 100 * score.one_minus_ned,
        }
