r"""How far the losses of two pretraining runs lie apart, for example bfloat16 and float32.

  python launch/compare_losses.py --first=WORKDIR --second=WORKDIR [--within=0.02]

Prints, for every loss, the largest relative difference over the steps that both have logged. Exit
code 1 if one of them exceeds --within.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from rcmstr_jax.runtime.command_line import one_line_errors, parse_flags
from rcmstr_jax.runtime.curves import relative_differences
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.writers import METRICS

FIRST = flags.DEFINE_string("first", None, "Workdir of one run.")
SECOND = flags.DEFINE_string("second", None, "Workdir of the other, which is the reference.")
WITHIN = flags.DEFINE_float("within", 0.02, "Largest relative difference.", lower_bound=0.0)
flags.mark_flags_as_required(["first", "second"])


def main(argv: Sequence[str]) -> int:
    """Prints the differences; returns the exit code."""
    del argv
    with one_line_errors():
        try:
            found = relative_differences(
                Path(str(FIRST.value)) / METRICS, Path(str(SECOND.value)) / METRICS
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"--first={FIRST.value} --second={SECOND.value}: {error}") from error
    for name, (steps, apart) in found.items():
        print(
            f"{name}: at most {apart.max():.2%} (step {steps[apart.argmax()]}), mean "
            f"{apart.mean():.2%}, {(apart <= WITHIN.value).mean():.0%} of {len(steps)} steps "
            f"within {WITHIN.value:.0%}"
        )
    return 0 if all(apart.max() <= WITHIN.value for _, apart in found.values()) else 1


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
