"""What holds for every test: helpers that assert say what they compared, and have to be named before any import."""

import sys

import pytest

# The simulated accelerator is one of Linux. There a missing compiler is a failure, and nothing is left out.
collect_ignore = [] if sys.platform == "linux" else ["simacc"]

pytest.register_assert_rewrite(
    "asyncckpt.testing",
    "tests.worker.crashing",
    "tests.worker.drive",
    "tests.worker.watching",
)
