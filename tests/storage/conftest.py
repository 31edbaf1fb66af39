import pytest

pytest.register_assert_rewrite("asyncckpt.testing")
