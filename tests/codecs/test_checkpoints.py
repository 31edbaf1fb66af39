"""Checkpoints that are compressed, encrypted or both: the same to train with, and nothing to read without the key."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import asyncckpt
from asyncckpt import AsyncCheckpointer, Budget, RetentionPolicy, SavePolicy, keys
from asyncckpt.cli.app import app
from asyncckpt.errors import CheckpointCorruptError, CheckpointDirectoryExistsError, KeyUnavailable
from asyncckpt.events import Damaged, Durable, Fallback, Restored
from asyncckpt.storage import MemoryStorage
from asyncckpt.storage.cutting import at_most
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import Recorder, worker_of

CODECS = ["zstd", "aes256gcm", "zstd+aes256gcm"]
everywhere = pytest.mark.parametrize(
    ("executor", "codec"), [*(("thread", codec) for codec in CODECS), ("process", CODECS[-1])], indirect=["executor"]
)
"""Each codec, and what both of them need in a worker process too."""
WORDS = "the customer is called Northwind"


class Model(nn.Module):
    """Bytes that compress and bytes that do not, some of which never change; more than a frame of each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.sparse = nn.Parameter(torch.zeros(512, 1024))
        self.dense = nn.Parameter(torch.rand(512, 1025))
        self.frozen = nn.Parameter(torch.rand(512, 1024), requires_grad=False)
        self.counter = nn.Parameter(torch.zeros(()))

    def train_to(self, step: int) -> None:
        with torch.no_grad():
            self.sparse[step] = step
            self.dense.add_(1)
            self.counter.fill_(step)

    def wipe(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(-1)


class Held:
    """A tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensor = state["tensor"]


class Note:
    """A value of the state that nobody else should read."""

    def __init__(self) -> None:
        self.text = WORDS

    def state_dict(self) -> dict[str, Any]:
        return {"confidential_text": self.text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text = state["confidential_text"]


def checkpointer(root: object, model: Model, codec: str | None, **options: Any) -> AsyncCheckpointer:
    note = options.pop("note", None) or Note()
    options.setdefault("executor", "thread")
    return AsyncCheckpointer(root, model=model, extra={"note": note}, save=SavePolicy(codec=codec), **options)


def trained(root: object, codec: str | None, *steps: int, **options: Any) -> dict[str, torch.Tensor]:
    """Train and save; the weights of the last step."""
    model = Model()
    with checkpointer(root, model, codec, **options) as ckpt:
        for step in range(1, max(steps) + 1):
            model.train_to(step)
            if step in steps:
                ckpt.save(step).wait()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def packs(root: Path) -> list[Path]:
    return sorted(root.glob("data/*/*.safetensors*"))


def everything(*roots: Path) -> bytes:
    """The bytes and names of every file below."""
    files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    return b"|".join([path.read_bytes() for path in files] + [str(path).encode() for path in files])


@everywhere
def test_a19_a20_d33_a_training_goes_on_from_them_to_the_bit(
    tmp_path: Path, codec: str, key: str, executor: str
) -> None:
    root = tmp_path / "run"
    expected = trained(root, codec, 1, 2, executor=executor, keep=RetentionPolicy(last=2))
    model, note = Model(), Note()
    model.wipe()
    note.text = ""
    with checkpointer(root, model, codec, executor=executor, note=note) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 2
        assert same(model.state_dict(), expected)
        assert note.text == WORDS
        model.wipe()
        ckpt.restore("latest", only=["model"])
        assert same(model.state_dict(), expected)
        model.train_to(3)
        ckpt.save(3).wait()
    assert same(asyncckpt.load(root, 2).state["model"], expected)
    part = asyncckpt.load(root, only=["model.counter"])
    assert part.state == {"model": {"counter": torch.tensor(3.0)}}
    assert CliRunner().invoke(app, ["verify", str(root)]).exit_code == 0
    suffix = {"zstd": ".zst", "aes256gcm": ".enc", "zstd+aes256gcm": ".zst.enc"}[codec]
    assert {path.name.partition(".safetensors")[2] for path in packs(root)} == {suffix}


@pytest.mark.parametrize("codec", CODECS)
def test_a19_a20_d33_the_same_on_an_object_store(s3: S3Server, codec: str, key: str) -> None:
    url = f"s3://tests/{secrets.token_hex(8)}/run"
    options = s3.options()
    expected = trained(url, codec, 1, 2, storage_options=options, executor="process")
    model = Model()
    model.wipe()
    with checkpointer(url, model, codec, storage_options=options) as ckpt:
        assert ckpt.resume().step == 2
        assert same(model.state_dict(), expected)
        model.wipe()
        ckpt.restore(2)
        assert same(model.state_dict(), expected)


def test_a19_d33_what_has_patterns_is_a_fraction_and_what_has_none_no_longer_than_it_was(tmp_path: Path) -> None:
    trained(tmp_path / "plain", None, 1)
    trained(tmp_path / "small", "zstd", 1)
    (plain,), (small,) = packs(tmp_path / "plain"), packs(tmp_path / "small")
    sizes = {name: tensor.nbytes for name, tensor in Model().state_dict().items()}
    assert small.stat().st_size < plain.stat().st_size - 0.99 * sizes["sparse"]
    noise = torch.randint(0, 256, (3 << 20,), dtype=torch.uint8)
    with AsyncCheckpointer(tmp_path / "noise", extra={"noise": Held(noise)}, save=SavePolicy(codec="zstd")) as ckpt:
        ckpt.save(1).wait()
    assert packs(tmp_path / "noise")[0].stat().st_size < noise.nbytes + 4096 + 6000, "noise, a header, random state"


@pytest.mark.parametrize("codec", CODECS)
def test_a19_a20_what_does_not_change_is_shared_and_what_is_kept_costs_no_more(
    tmp_path: Path, codec: str, key: str
) -> None:
    root, seen = tmp_path / "run", Recorder()
    expected = trained(root, codec, 1, 2, 3, 4, keep=RetentionPolicy(last=1), listeners=[seen])
    first, *later = [event.written for event in seen.of(Durable)]
    frozen = Model().frozen.nbytes
    assert all(written < first - 0.8 * frozen for written in later[1:]), (first, later)
    assert same(asyncckpt.load(root).state["model"], expected)
    assert len(packs(root)) == 2, "the pack that is shared, and the newest"


@pytest.mark.executors
def test_a20_no_byte_of_the_state_is_on_any_disk(tmp_path: Path, key: str, executor: str) -> None:
    trained(tmp_path / "run", "aes256gcm", 1, 2, executor=executor, local=tmp_path / "near", mirror=tmp_path / "far")
    secret = keys.registered()[0].secret
    frozen = Model().frozen.detach().numpy().tobytes()
    found = everything(tmp_path)
    telling = [WORDS.encode(), b"confidential_text", b"sparse", b"frozen", frozen[:64], frozen[-64:], secret]
    telling += [secret.hex().encode(), b64encode(secret)]
    assert [text for text in telling if text in found] == []
    trained(tmp_path / "plain", None, 1)
    assert all(text in everything(tmp_path / "plain") for text in telling[:6]), "the search finds nothing anyhow"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a20_a_registered_key_reaches_the_worker_by_its_socket_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    text = keys.generate()
    keys.register(text)
    secret = keys.registered()[0].secret
    model = Model()
    with checkpointer(tmp_path / "run", model, "aes256gcm", executor="process") as ckpt:
        ckpt.save(1).wait()
        for number in (1, 2):  # one that takes the place of a dead one is told it too
            process = Path(f"/proc/{worker_of(ckpt)}")
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            assert not [form for form in (secret, secret.hex().encode(), text.encode()) if form in told]
            os.kill(int(process.name), signal.SIGKILL)
            ckpt.save(1 + number).wait()
    assert asyncckpt.load(tmp_path / "run").info.step == 3


# -- without the key ---------------------------------------------------------------------------------------


def test_a20_without_the_key_nothing_begins_anew_and_nothing_is_damaged(tmp_path: Path, key: str) -> None:
    root, seen = tmp_path / "run", Recorder()
    expected = trained(root, "zstd+aes256gcm", 1, 2)
    before = everything(root / "data")
    right = keys.registered()[0]
    for wrong in (None, keys.generate()):
        keys.forget()
        other = None if wrong is None else keys.register(wrong)
        model = Model()
        with checkpointer(root, model, None, listeners=[seen]) as ckpt:
            for act in (ckpt.resume, ckpt.restore, lambda: ckpt.restore(1)):
                with pytest.raises(KeyUnavailable, match=key) as told:
                    act()
                assert other is None or other in str(told.value)
            assert [info.step for info in ckpt.checkpoints()] == [1, 2]
            assert not any(info.damaged for info in ckpt.checkpoints())
            with pytest.raises(CheckpointDirectoryExistsError):
                ckpt.save(3)
        with pytest.raises(KeyUnavailable, match=key):
            asyncckpt.load(root)
        assert same(model.state_dict(), Model().state_dict())
    assert seen.of(Damaged) == []
    assert not list(root.glob("user/*"))
    assert everything(root / "data") == before
    keys.forget()
    keys.register(right.secret)
    assert same(asyncckpt.load(root).state["model"], expected)


def test_a20_what_is_stored_is_verified_without_the_key(tmp_path: Path, key: str) -> None:
    root = tmp_path / "run"
    trained(root, "aes256gcm", 1, 2)
    keys.forget()
    run = CliRunner()
    for mode in ("--full", "--quick"):
        result = run.invoke(app, ["verify", str(root), mode])
        assert key in result.stdout
        assert result.stdout.count("unread: ") == 2
    shown = run.invoke(app, ["show", str(root)])
    assert shown.exit_code != 0
    assert key in shown.output
    assert run.invoke(app, ["ls", str(root)]).exit_code == 0
    flip(packs(root)[1])
    result = run.invoke(app, ["verify", str(root)])
    assert "00000002  step 2  damaged: " in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a19_a20_damage_is_told_from_a_missing_key_and_the_one_before_is_taken(
    tmp_path: Path, codec: str, harm: str, key: str
) -> None:
    root, seen = tmp_path / "run", Recorder()
    trained(root, codec, 1, 2)
    pack = min(root.glob("data/00000002-*/*.safetensors*"))
    {"flip": flip, "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]), "remove": Path.unlink}[harm](pack)
    with pytest.raises(CheckpointCorruptError, match=pack.name):
        asyncckpt.load(root)
    model = Model()
    with checkpointer(root, model, codec, listeners=[seen]) as ckpt:
        assert ckpt.resume().step == 1
        ckpt.save(2).wait()
    assert [event.step for event in seen.of(Damaged)] == [2]
    assert model.counter.item() == 1


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


# -- changes of mind ---------------------------------------------------------------------------------------


def test_a20_another_key_takes_over_with_a_full_save_and_reads_with_both(tmp_path: Path, key: str) -> None:
    root = tmp_path / "run"
    trained(root, "aes256gcm", 1)
    newer = keys.register(keys.generate())
    model = Model()
    with checkpointer(root, model, "aes256gcm") as ckpt:
        assert ckpt.resume().step == 1
        model.train_to(2)
        ckpt.save(2).wait()
    first, second = (asyncckpt.load(root, step).state["model"] for step in (1, 2))
    assert torch.equal(first["frozen"], second["frozen"])
    newest = keys.registered()[-1]
    keys.forget()
    keys.register(newest.secret)
    assert same(asyncckpt.load(root, 2).state["model"], model.state_dict())
    with pytest.raises(KeyUnavailable, match=rf"{key}.*{newer}"):
        asyncckpt.load(root, 1)


def test_a20_who_goes_on_from_an_encrypted_checkpoint_without_asking_for_that_is_told(tmp_path: Path, key: str) -> None:
    root = tmp_path / "run"
    trained(root, "aes256gcm", 1)
    for codec, told in (("aes256gcm", []), ("zstd", ["encryption"]), (None, ["encryption"])):
        seen = Recorder()
        with checkpointer(root, Model(), codec, listeners=[seen]) as ckpt:
            ckpt.resume()
        assert [event.feature for event in seen.of(Fallback)] == told


@pytest.mark.parametrize(("before", "after"), [(None, "aes256gcm"), ("zstd", "aes256gcm"), ("aes256gcm", None)])
def test_a20_a_change_of_codec_shares_nothing_with_what_was_stored_otherwise(
    tmp_path: Path, before: str | None, after: str | None, key: str
) -> None:
    root = tmp_path / "run"
    trained(root, before, 1)
    model = Model()
    with AsyncCheckpointer(
        root,
        model=model,
        extra={"note": Note()},
        save=SavePolicy(codec=after, accept_plain=after is not None),
        keep=RetentionPolicy(last=1),
        executor="thread",
    ) as ckpt:
        ckpt.resume()
        model.train_to(2)
        ckpt.save(2).wait()
        ckpt.save(3).wait()
    assert len({path.suffix for path in packs(root)}) == 1
    assert same(asyncckpt.load(root).state["model"], model.state_dict())


def test_a20_the_key_comes_from_the_environment_a_file_or_a_callable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = keys.generate()
    (tmp_path / "key.txt").write_text(f"{text}\n")
    ways: dict[str, Callable[[], object]] = {
        "variable": lambda: monkeypatch.setenv(keys.VARIABLE, f"{text},{keys.generate()}"),
        "file variable": lambda: monkeypatch.setenv(keys.FILE_VARIABLE, str(tmp_path / "key.txt")),
        "file": lambda: keys.register(tmp_path / "key.txt"),
        "callable": lambda: keys.register(lambda: text),
        "hexadecimal": lambda: keys.register(b64decode(text).hex()),
    }
    for name, way in ways.items():
        way()
        trained(tmp_path / name, "aes256gcm", 1)
        monkeypatch.delenv(keys.VARIABLE, raising=False)
        monkeypatch.delenv(keys.FILE_VARIABLE, raising=False)
        keys.forget()
    keys.register(text)
    assert all(asyncckpt.load(tmp_path / name).info.step == 1 for name in ways)


# -- with everything else ----------------------------------------------------------------------------------


@everywhere
def test_a19_a20_d33_tiers_hold_the_same_bytes_and_each_can_be_gone_on_from(
    tmp_path: Path, codec: str, key: str, executor: str
) -> None:
    home, near, far = tmp_path / "home", tmp_path / "near", tmp_path / "far"
    expected = trained(home, codec, 1, 2, executor=executor, local=near, mirror=far)
    for tier in (home, near, far):
        assert same(asyncckpt.load(tier).state["model"], expected)
    assert packs(home)[-1].read_bytes() == packs(near)[-1].read_bytes() == packs(far)[-1].read_bytes()
    flip(packs(home)[-1])
    seen = Recorder()
    for beside in ({"local": near}, {"mirror": far}):
        model = Model()
        model.wipe()
        with checkpointer(home, model, codec, executor=executor, listeners=[seen], **beside) as ckpt:
            ckpt.restore("latest")
            assert same(model.state_dict(), expected)
    assert [event.step for event in seen.of(Restored)] == [2, 2]


def test_a19_a20_a_snapshot_that_goes_through_a_window(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.rand(1 << 20) for _ in range(40)])

    torch.manual_seed(0)
    model = Trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(
        tmp_path / "run",
        model=model,
        optimizer=optimizer,
        save=SavePolicy(codec="zstd+aes256gcm"),
        budget=Budget(memory=130 << 20),
        executor="thread",
    ) as ckpt:
        ckpt.save(1).wait()
    assert "goes through" in caplog.text
    assert same(asyncckpt.load(tmp_path / "run").state["model"], model.state_dict())


@pytest.mark.parametrize(
    ("module", "extra", "codec"), [("zstandard", "zstd", "zstd"), ("cryptography", "crypto", "aes256gcm")]
)
def test_a19_a20_a_missing_library_is_an_error_that_names_the_extra_before_anything_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str, codec: str, key: str
) -> None:
    for name in [module, *(name for name in sys.modules if name.partition(".")[0] == module)]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(asyncckpt.errors.AsyncCkptError, match=rf"asyncckpt\[{extra}\]"):
        checkpointer(tmp_path / "run", Model(), codec)
    assert not (tmp_path / "run").exists()


def test_a20_without_any_key_the_checkpointer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="ASYNCCKPT_KEY"):
        checkpointer(tmp_path / "run", Model(), "aes256gcm")
    with pytest.raises(ValueError, match="zstd, aes256gcm"):
        SavePolicy(codec="gzip")


def test_a20_the_key_that_is_written_with_outlives_its_variable(
    tmp_path: Path, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(keys.VARIABLE, keys.generate())
    root, model = tmp_path / "run", nn.Linear(4, 1)
    with AsyncCheckpointer(root, model=model, save=SavePolicy(codec="aes256gcm"), executor=executor) as ckpt:
        monkeypatch.delenv(keys.VARIABLE)
        ckpt.save(1).wait()
    assert torch.equal(asyncckpt.load(root).state["model"]["weight"], model.weight)
    keys.forget()
    with pytest.raises(KeyUnavailable):
        asyncckpt.load(root)


@pytest.mark.parametrize("codec", CODECS)
def test_a19_a20_a_store_is_told_a_bound_of_what_nobody_knows_the_length_of(codec: str, key: str) -> None:
    """By it an object store chooses its parts, of which there can be so many: a large pack would not fit otherwise."""
    bounds: dict[str, int | None] = {}

    class Noting(MemoryStorage):
        async def put(self, name: str, parts: Any, **given: Any) -> Any:
            bounds[name] = at_most(parts)
            return await super().put(name, parts, **given)

    store = Noting("bounds")
    trained(store, codec, 1, 2)

    async def lengths() -> dict[str, int]:
        return {found.key: found.length async for found in store.list("data/") if ".safetensors" in found.key}

    stored = asyncio.run(lengths())
    assert len(stored) > 1, "a whole pack, and those of what changed and moved"
    plain = sum(tensor.nbytes for tensor in Model().state_dict().values())
    for name, length in stored.items():
        bound = bounds[name]
        assert bound is not None
        assert length <= bound <= 1.1 * plain
