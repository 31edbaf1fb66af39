"""What holds for every test: helpers that assert say what they compared, and have to be named before any import."""

import pytest

pytest.register_assert_rewrite(
    "asyncckpt.testing",
    "tests.worker.crashing",
    "tests.worker.drive",
    "tests.worker.watching",
)
