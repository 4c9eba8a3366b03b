"""docs/mistakes.md says what wrong command lines are answered: they are all run again here."""

from __future__ import annotations

import subprocess
import sys


def test_the_page_is_what_the_launchers_answer(repository) -> None:
    # Every line is also checked there: one line, exit code 2.
    done = subprocess.run(
        [sys.executable, "-m", "tests.launch.mistakes"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    page = (repository / "docs/mistakes.md").read_text(encoding="utf-8")
    assert done.stdout == page, "python -m tests.launch.mistakes --write renews the page"
    assert page.count("\n```\n") >= 2 * 20
