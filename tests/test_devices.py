"""What `nvidia-smi` says becomes worker slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workbench import Workbench

from hpo import devices
from hpo.devices import Gpu, Slot
from hpo.errors import Problem, StudyFileError

TWO = (
    "0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559\n1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559"
)

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.gpus.cache_clear()
    yield
    devices.gpus.cache_clear()


@pytest.fixture
def nvidia_smi(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Install:
    """Puts a program of that name on the PATH, alone there."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))

    def install(prints: str, exit_code: int = 0) -> None:
        program = folder / "nvidia-smi"
        program.write_text(
            "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done <<'END'\n"
            f"{prints}\nEND\nexit {exit_code}\n"
        )
        program.chmod(0o755)

    return install


def slots(bench: Workbench, **overrides: Any) -> list[Slot]:
    found = devices.slots(bench.load(**{"executor": "processes", "workers": "auto"} | overrides))
    assert not isinstance(found, Problem), found
    return found


def problem(bench: Workbench, **overrides: Any) -> Problem:
    found = devices.slots(bench.load(**{"executor": "processes", "workers": "auto"} | overrides))
    assert isinstance(found, Problem), found
    return found


def test_gpus_are_read_with_id_name_and_memory(nvidia_smi: Install) -> None:
    nvidia_smi(TWO)
    assert devices.gpus() == (
        Gpu("GPU-aaaa1111", "NVIDIA H100 80GB HBM3", 81559),
        Gpu("GPU-bbbb2222", "NVIDIA H100 80GB HBM3", 81559),
    )


def test_a_gpu_without_memory_of_its_own_is_a_gpu(nvidia_smi: Install) -> None:
    nvidia_smi("0, GPU-cccc3333, NVIDIA GB10, [N/A]")
    assert devices.gpus() == (Gpu("GPU-cccc3333", "NVIDIA GB10", None),)


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("0", ["GPU-aaaa1111"]),
        ("1, 0", ["GPU-bbbb2222", "GPU-aaaa1111"]),
        ("GPU-bbbb", ["GPU-bbbb2222"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["GPU-aaaa1111"]),
        ("7", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    nvidia_smi: Install, monkeypatch: pytest.MonkeyPatch, visible: str, ids: list[str]
) -> None:
    nvidia_smi(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.id for gpu in devices.gpus()] == ids


def test_a_driver_that_does_not_answer_is_no_gpu(nvidia_smi: Install) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver", 9)
    assert devices.gpus() == ()


def test_a_machine_without_nvidia_smi_has_no_gpu(nvidia_smi: Install, bench: Workbench) -> None:
    assert devices.gpus() == ()
    found = slots(bench, device="auto")
    assert {slot.device for slot in found} == {"cpu"}
    assert "no NVIDIA GPU is visible" in problem(bench, device="cuda").message


def test_a_gpu_that_pytorch_cannot_use_is_said_before_a_trial_begins(
    nvidia_smi: Install, bench: Workbench
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this PyTorch can use a GPU")
    nvidia_smi(TWO)
    with pytest.raises(StudyFileError) as refused:
        bench.run(device="cuda")
    (found,) = refused.value.problems
    assert found.key == "device"
    assert "cannot use the GPU" in found.message


def test_auto_takes_one_worker_a_gpu_and_divides_the_cores(
    nvidia_smi: Install, bench: Workbench
) -> None:
    nvidia_smi(TWO)
    threads = max(1, devices.cores() // 2)
    assert slots(bench, device="auto") == [
        Slot("cuda", "GPU-aaaa1111", 1.0, threads),
        Slot("cuda", "GPU-bbbb2222", 1.0, threads),
    ]


def test_fractions_share_a_gpu_and_its_memory(nvidia_smi: Install, bench: Workbench) -> None:
    nvidia_smi(TWO)
    found = slots(bench, device="cuda", gpus_per_trial=0.3)
    assert [slot.gpu for slot in found] == ["GPU-aaaa1111", "GPU-bbbb2222"] * 2 + ["GPU-aaaa1111"]
    assert {slot.memory_share for slot in found} == {1 / 3}
    assert len(slots(bench, device="cuda", gpus_per_trial=0.3, budget__trials=50)) == 6


def test_tenths_of_a_gpu_are_ten_workers(nvidia_smi: Install, bench: Workbench) -> None:
    nvidia_smi(TWO.splitlines()[0])
    found = slots(bench, device="cuda", gpus_per_trial=0.1, budget__trials=50)
    assert len(found) == 10


def test_few_workers_spread_over_all_gpus(nvidia_smi: Install, bench: Workbench) -> None:
    nvidia_smi(TWO)
    found = slots(bench, device="cuda", gpus_per_trial=0.5, workers=2)
    assert [slot.gpu for slot in found] == ["GPU-aaaa1111", "GPU-bbbb2222"]


def test_more_workers_than_the_gpus_have_room_for_are_refused(
    nvidia_smi: Install, bench: Workbench
) -> None:
    nvidia_smi(TWO)
    found = problem(bench, device="cuda", gpus_per_trial=0.5, workers=5)
    assert found.key == "workers"
    assert "room for 4; got 5" in found.message


def test_the_inline_executor_has_one_worker(nvidia_smi: Install, bench: Workbench) -> None:
    assert len(slots(bench, executor="inline")) == 1
    assert "inline" in problem(bench, executor="inline", workers=2).message
    nvidia_smi(TWO)
    devices.gpus.cache_clear()
    assert len(slots(bench, executor="inline", device="cuda")) == 1
    assert "room for 1" in problem(bench, executor="inline", device="cuda", workers=2).message


def test_a_cpu_has_a_worker_a_core_and_no_more_than_trials(
    nvidia_smi: Install, bench: Workbench
) -> None:
    many = {"budget__trials": 10_000}
    assert slots(bench, **many) == [Slot("cpu", None, 1.0, 1)] * devices.cores()
    assert len(slots(bench, workers=devices.cores() + 3, **many)) == devices.cores() + 3
    # As many threads as ever: a trial's metrics do not depend on how many others there will be.
    assert slots(bench, budget__trials=1, workers="auto") == [Slot("cpu", None, 1.0, 1)]
    assert slots(bench, workers=1)[0].threads == devices.cores()


def test_a_container_s_quota_bounds_the_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "CPU_MAX", tmp_path / "cpu.max")
    unlimited = devices.cores()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.cores() == unlimited
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert devices.cores() == 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert devices.cores() == 1
