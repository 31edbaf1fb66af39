"""N steps straight equal k steps, a new process's worth of new objects, resume, N-k steps: to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, SavePolicy
from tests.training.runs import Net, Optimizers, Training, differences

STEPS, KILLED = 8, 4


def split(model: nn.Module) -> list[torch.optim.Optimizer]:
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in model.named_parameters() if not n.endswith("weight")]
    return [torch.optim.AdamW(weights, lr=0.01), torch.optim.SGD(biases, lr=0.1, momentum=0.9)]


def groups(model: nn.Module) -> torch.optim.Optimizer:
    first, *others = model.parameters()
    return torch.optim.Adam([{"params": [first], "betas": (0.8, 0.9)}, {"params": others, "lr": 0.1}], lr=0.01)


def of(kind: str, **options: Any) -> Optimizers:
    return lambda model: getattr(torch.optim, kind)(model.parameters(), **options)


OPTIMIZERS: dict[str, Optimizers] = {
    "SGD": of("SGD", lr=0.1),
    "SGD momentum": of("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": of("Adam", amsgrad=True),
    "Adam foreach": of("Adam", foreach=True),
    "Adam fused": of("Adam", fused=True),
    "Adam tensor lr": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01), foreach=False),
    "AdamW": of("AdamW"),
    "Adagrad": of("Adagrad"),
    "Adadelta": of("Adadelta"),
    "Adamax": of("Adamax"),
    "ASGD": of("ASGD"),
    "NAdam": of("NAdam"),
    "RAdam": of("RAdam"),
    "RMSprop": of("RMSprop", momentum=0.9, centered=True),
    "Rprop": of("Rprop"),
    "LBFGS": of("LBFGS", max_iter=2, history_size=3),
    "two optimizers": split,
    "parameter groups": groups,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_resumes_exactly(tmp_path: Path, name: str) -> None:
    straight = Training(0, OPTIMIZERS[name])
    expected = [straight.step() for _ in range(STEPS)]
    end = straight.everything()

    before = Training(0, OPTIMIZERS[name])
    with before.checkpointer(tmp_path, save=SavePolicy(every_steps=1), verify="always") as checkpointer:
        losses = []
        for step in range(1, KILLED + 1):
            losses.append(before.step())
            checkpointer.step(step)
        checkpointer.save(KILLED).wait()

    after = Training(99, OPTIMIZERS[name])
    with after.checkpointer(tmp_path) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        assert state.step == KILLED
        losses += [after.step() for _ in range(STEPS - KILLED)]
    assert losses == expected
    assert list(differences(end, after.everything())) == []


def test_fp32_state_of_bf16_parameters_comes_back_as_it_was(tmp_path: Path) -> None:
    def master(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for parameter in model.parameters():
            optimizer.state[parameter]["master"] = parameter.detach().float() + 1e-6
        return optimizer

    before = Training(0, master, torch.bfloat16)
    with before.checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1).wait()
    after = Training(1, master, torch.bfloat16)
    with after.checkpointer(tmp_path) as checkpointer:
        checkpointer.resume()
    for old, new in zip(before.optimizers[0].state.values(), after.optimizers[0].state.values(), strict=True):
        assert new["master"].dtype == torch.float32
        assert torch.equal(old["master"], new["master"])


def test_saving_at_every_step_changes_nothing_in_the_training(tmp_path: Path) -> None:
    plain = Training(3, of("AdamW"))
    expected = [plain.step() for _ in range(STEPS)]
    end = plain.everything()
    saving = Training(3, of("AdamW"))
    losses = []
    with saving.checkpointer(tmp_path, save=SavePolicy(every_steps=1), on_busy="wait") as checkpointer:
        for step in range(1, STEPS + 1):
            losses.append(saving.step())
            checkpointer.step(step)
    assert losses == expected
    assert list(differences(end, saving.everything())) == []


def test_a_new_process_goes_on_exactly(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.training.runs import Training;"
        "from tests.training.test_resume_exact import of; t = Training(int(sys.argv[2]), of('AdamW'));\n"
        "with t.checkpointer(Path(sys.argv[1])) as c:\n"
        "    s = c.resume(); start = s.step if s else 0\n"
        "    print(*[t.step() for _ in range(4)]); c.save(start + 4).wait()\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), seed], capture_output=True, text=True, check=True, timeout=120
        )
        for seed in ("0", "7")
    ]
    straight = Training(0, of("AdamW"))
    assert [loss for done in runs for loss in done.stdout.split()] == [straight.step() for _ in range(8)]


def test_structure_that_changes_between_saves_is_seen(tmp_path: Path) -> None:
    training = Training(0, of("Adam"))
    model, optimizer = training.model, training.optimizers[0]
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer) as checkpointer:

        def saved(step: int) -> dict[str, Any]:
            checkpointer.save(step).wait()
            import asyncckpt

            state = asyncckpt.load(tmp_path, step).state
            assert list(differences(model.state_dict(), state["model"])) == []
            assert list(differences(optimizer.state_dict(), state["optimizer"])) == []
            return state

        assert saved(1)["optimizer"]["state"] == {}
        training.step()
        assert saved(2)["optimizer"]["state"][0]["step"] == 1
        model.extra = nn.Linear(2, 2)
        optimizer.add_param_group({"params": list(model.extra.parameters()), "lr": 0.5})
        assert len(saved(3)["optimizer"]["param_groups"]) == 2
        model.first.bias.data = torch.full((8,), 5.0)
        assert saved(4)["model"]["first.bias"].tolist() == [5.0] * 8
        model.norm.running_mean.add_(1)
        model.register_buffer("late", torch.ones(3, dtype=torch.bool))
        saved(5)
        model.late.resize_(2)
        assert saved(6)["model"]["late"].shape == (2,)
        optimizer.param_groups[0]["lr"] = 0.125
        assert saved(7)["optimizer"]["param_groups"][0]["lr"] == 0.125
        del model.extra
        optimizer.param_groups.pop()
        saved(8)


def test_tied_weights_stay_tied_and_are_stored_once(tmp_path: Path) -> None:
    import asyncckpt

    model = Net()
    with AsyncCheckpointer(tmp_path, model=model) as checkpointer:
        info = checkpointer.save(1).wait()
    state = asyncckpt.load(tmp_path).state["model"]
    assert state["first.weight"].data_ptr() == state["last.weight"].data_ptr()
    once = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    assert info.size < sum(once.values()) + 10_000
    other = Net()
    with AsyncCheckpointer(tmp_path, model=other) as checkpointer:
        checkpointer.restore()
    assert other.first.weight is other.last.weight
    assert torch.equal(other.first.weight, model.first.weight)
