"""The conformance suite: what every `Storage` has to keep, whoever wrote it.

::

    class TestMyStorage(StorageSuite):
        @pytest.fixture(autouse=True)
        def root(self, tmp_path):
            self.path = tmp_path

        def make(self):
            return MyStorage(self.path)

A store that is `Opening` or `Linking` too has `OpeningTests` and `LinkingTests` beside it, or the suite fails.
``pytest.register_assert_rewrite("asyncckpt.testing")`` in a ``conftest.py`` makes its failures show values.
"""

from __future__ import annotations

from asyncckpt.storage.base import Linking, Opening, Storage
from asyncckpt.testing.store_contents import ContentTests
from asyncckpt.testing.store_extras import LinkingTests, OpeningTests
from asyncckpt.testing.store_names import NameTests
from asyncckpt.testing.store_puts import PutTests


class StorageSuite(ContentTests, PutTests, NameTests):
    """Subclass it as ``Test...`` and give it `make`: a new instance on this test's own, fresh root."""

    def test_all_that_it_can_do_is_tested(self) -> None:
        async def act(store: Storage) -> None:
            assert isinstance(store, Opening) == isinstance(self, OpeningTests)
            assert isinstance(store, Linking) == isinstance(self, LinkingTests)

        self.run(act)


__all__ = ["LinkingTests", "OpeningTests", "StorageSuite"]
