"""What follows from what torch and the driver say of GPUs."""

import subprocess
import sys

import pytest

from flows.doctor import gpus
from flows.doctor.gpus import Build, Card, Device, Driver, judged, read_cards, runs_on

CARD = Card("NVIDIA A100-SXM4-80GB", "570.86.15", 81920, 81000)
DEVICE = Device("NVIDIA A100-SXM4-80GB", 85_000_000_000, (8, 0))
CODE = ("sm_75", "sm_80", "sm_86", "sm_90")
FOR_CUDA = {"version": "2.12.1+cu130", "cuda": "13.0", "hip": None, "architectures": CODE}
FOR_CPU = {"version": "2.12.1+cpu", "cuda": None, "hip": None}


def marks(findings):
    return [(one.mark, one.topic) for one in findings]


def test_a_gpu_that_is_used_is_told_with_all_that_matters(told):
    found = told(judged(Build(devices=(DEVICE,), **FOR_CUDA), Driver((CARD,))))
    assert [mark for mark, _ in found] == ["ok", "ok"]
    assert "built for CUDA 13.0" in found[0][1]
    assert "0: NVIDIA A100-SXM4-80GB, 85.0 GB, compute capability 8.0, driver 570.86" in found[1][1]


def test_no_gpu_is_fine(told):
    found = told(judged(Build(**FOR_CPU), Driver()))
    assert found[1] == ("ok", "none: everything is computed by the CPU | ")


def test_a_build_for_cpus_beside_a_gpu_is_told(told):
    found = told(judged(Build(**FOR_CPU), Driver((CARD, CARD))))
    assert found[1][0] == "!" and "2 x NVIDIA" in found[1][1] and "CUDA build" in found[1][1]


def test_a_driver_that_is_older_than_torchs_cuda_fails(told):
    build = Build(driver_cuda=12_080, **FOR_CUDA)
    found = told(judged(build, Driver((CARD,)), visible="0"))
    assert found[1][0] == "x" and "CUDA up to 12.8, torch was built for 13.0" in found[1][1]


def test_a_hidden_gpu_and_one_that_torch_does_not_see_are_told(told):
    build = Build(why_none="CUDA unknown error", driver_cuda=13_000, **FOR_CUDA)
    hidden = told(judged(build, Driver((CARD,)), visible="-1"))
    assert hidden[1][0] == "!" and "unset CUDA_VISIBLE_DEVICES" in hidden[1][1]
    unseen = told(judged(build, Driver((CARD,))))
    assert unseen[1][0] == "x" and "torch says: CUDA unknown error" in unseen[1][1]


def test_a_gpu_that_torch_has_no_code_for_fails(told):
    old = Device("NVIDIA GTX 1080", 8_000_000_000, (6, 1))
    found = told(judged(Build(devices=(DEVICE, old), **FOR_CUDA), Driver()))
    assert [mark for mark, _ in found] == ["ok", "ok", "x"]
    assert "has code for sm_75 sm_80 sm_86 sm_90 alone" in found[2][1]


@pytest.mark.parametrize(
    ("capability", "code", "runs"),
    [
        ((8, 9), CODE, True),
        ((12, 0), CODE, False),
        ((12, 0), ("sm_120",), True),
        ((10, 3), ("sm_90a", "compute_90"), True),
        ((6, 1), ("compute_90",), False),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_90a",), True),
        ((9, 0), ("strange",), False),
    ],
)
def test_code_runs_on_its_generation_or_is_compiled_for_newer_ones(capability, code, runs):
    assert runs_on(capability, code) == runs


def test_a_gpu_that_somebody_fills_is_told(told):
    full = Card("NVIDIA A100", "570.86", 81920, 500)
    found = told(judged(Build(devices=(DEVICE,), **FOR_CUDA), Driver((full,))))
    assert found[2][0] == "!" and "0.5 of 81.9 GB are free" in found[2][1]


def test_a_driver_that_is_broken_or_absent_is_told(told):
    broken = Driver(trouble="Driver/library version mismatch")
    found = told(judged(Build(**FOR_CUDA), broken))
    assert [mark for mark, _ in found] == ["ok", "x"] and "version mismatch" in found[1][1]
    found = told(judged(Build(**FOR_CUDA), Driver(silent_cards=1)))
    assert found[1][0] == "!" and "without a driver" in found[1][1]


def test_lines_of_nvidia_smi_are_read_and_others_are_not():
    said = "NVIDIA H100, PCIe, 550.54, 81559, 80000\nGrid, 535.1, [N/A], [N/A]\nNo devices\n"
    assert read_cards(said) == (
        Card("NVIDIA H100, PCIe", "550.54", 81559, 80000),
        Card("Grid", "535.1", 0, 0),
    )


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        ("print('NVIDIA-SMI has failed'); raise SystemExit(9)", "NVIDIA-SMI has failed"),
        ("raise SystemExit(9)", "exit code 9"),
        ("import time; time.sleep(60)", "it does not answer within"),
        ("print('A100, 570, 100, 90')", ""),
    ],
)
def test_what_nvidia_smi_answers_is_taken_as_it_is(code, trouble, monkeypatch):
    monkeypatch.setattr(gpus, "SECONDS_OF_SMI", 1 if "sleep" in code else 30)
    asked = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    driver = gpus.answer_of_smi(asked)
    asked.wait(10)
    assert trouble in driver.trouble and bool(driver.trouble) == bool(trouble)
    assert len(driver.cards) == (0 if trouble else 1)


def test_gpus_are_counted_on_the_bus(tmp_path):
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1002", "0x030000")]
    ):
        device = tmp_path / f"0000:0{number}"
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    (tmp_path / "empty").mkdir()
    assert gpus.cards_on_the_bus(tmp_path) == 1


def test_torch_as_it_is_here_is_asked_in_a_process_of_its_own(machine):
    found = list(gpus.torch_and_gpus(machine(seconds=100)))
    assert found[0].topic == "torch" and found[0].mark == "ok"
    assert "gpu" in {one.topic for one in found}
