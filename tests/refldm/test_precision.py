"""What `--precision auto` takes, with the trial's result and the processor's abilities given."""

from __future__ import annotations

import pytest
import torch

from ffhqref.core.store import UserError
from ffhqref.refldm.model import precision
from ffhqref.refldm.restorer import check_device


def processor(monkeypatch: pytest.MonkeyPatch, *, bf16: bool, seconds: tuple[float, float]) -> list[str]:
    """A processor whose trial takes so many seconds in fp32 and in bf16; the trials made come in a list."""
    trials: list[str] = []

    def trial(dtype: torch.dtype) -> float:
        trials.append(str(dtype))
        return seconds[dtype == torch.bfloat16]

    monkeypatch.setattr(precision, "has_bf16", lambda: bf16)
    monkeypatch.setattr(precision, "_trial", trial)
    return trials


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((2.0, 1.0), "bf16"), ((1.15, 1.0), "bf16"), ((1.14, 1.0), "fp32"), ((1.0, 3.0), "fp32")],
)
def test_auto_takes_bf16_on_a_processor_where_the_trial_says_so(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], chosen: str
) -> None:
    trials = processor(monkeypatch, bf16=True, seconds=seconds)
    assert precision.resolve("auto", "cpu") == chosen
    assert sorted(trials) == ["torch.bfloat16", "torch.float32"]
    assert ("would take bf16" in precision.gain("cpu")) == (chosen == "bf16")


def test_without_bf16_in_the_processor_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = processor(monkeypatch, bf16=False, seconds=(2.0, 1.0))
    assert precision.resolve("auto", "cpu") == "fp32" and precision.gain("cpu") == ""
    assert precision.resolve("bf16", "cpu") == "bf16", "what is asked for by name is taken"
    assert trials == []


@pytest.mark.parametrize(("bf16", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, chosen: str) -> None:
    """Emulated bf16, as a V100 or T4 has it, does not count."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16
    )
    assert precision.resolve("auto", "cuda:1") == chosen
    assert "bf16" in precision.gain("cuda:1")


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_what_is_for_gpus_is_refused_on_a_cpu(name: str) -> None:
    assert precision.resolve(name, "cuda") == name
    with pytest.raises(UserError, match=f"{name} is for GPUs"):
        precision.resolve(name, "cpu")


@pytest.mark.filterwarnings("ignore")  # newer versions of torch prefer other names
def test_float32_is_rounded_to_tf32_where_that_is_asked_for_alone() -> None:
    def state() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = state()
    assert before[1], "torch's own default, which `fp32` must not keep"
    for name, wanted in (
        ("fp32", ("highest", False)),
        ("bf16", ("highest", False)),
        ("tf32", ("high", True)),
    ):
        with pytest.raises(ZeroDivisionError), precision.arithmetic(name):
            assert state() == wanted
            raise ZeroDivisionError
        assert state() == before


def test_a_device_is_there_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for good in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(good)
    for bad in ("cuda:2", "cuda:7", "cuda:-1", "cuda:", "cuda:1:2", "cpu:0", "mps", "", "cuda:" + "9" * 5000):
        with pytest.raises(UserError, match="no such device here; give cpu or cuda:0 or cuda:1"):
            check_device(bad)


def test_a_trial_is_timed_in_the_precision_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    forward = precision.ResBlock.forward

    def spy(self: precision.ResBlock, x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return forward(self, x, *more)

    monkeypatch.setattr(precision.ResBlock, "forward", spy)
    for dtype in (torch.float32, torch.bfloat16):
        seen.clear()
        precision._trial(dtype)
        assert seen and set(seen) == {dtype}
