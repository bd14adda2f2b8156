"""torch, what it was built for, and the GPUs that it and the driver see. `python -m` this module is
the part that imports torch.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.doctor.apart import found_apart, say_all
from flows.doctor.findings import Findings, Machine, fails, fine, note
from flows.doctor.packages import reinstall
from rdm_core.importing import large_import

SECONDS_OF_SMI = 6.0
"""The first call after a start loads the driver."""
ASKED = "--query-gpu=name,driver_version,memory.total,memory.free"
CUDA_BUILD = f"Install the CUDA build: {reinstall('torch', 'torchvision')}"
NVIDIA = "0x10de"
DISPLAY = "0x03"
"""How the class of a PCI device begins that shows or computes pictures."""
LITTLE_FREE = 0.2
"""The share of a GPU's memory below which somebody else seems to use it."""


@dataclass(frozen=True)
class Card:
    """A GPU as the driver's nvidia-smi tells it."""

    name: str
    driver: str
    total_mb: int
    free_mb: int


@dataclass(frozen=True)
class Driver:
    """What is known of GPUs without torch."""

    cards: tuple[Card, ...] = ()
    trouble: str = ""
    """What nvidia-smi complains of."""
    silent_cards: int = 0
    """GPUs of NVIDIA on the bus."""


@dataclass(frozen=True)
class Device:
    """A GPU as torch sees it."""

    name: str
    total_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Build:
    """What torch says of itself."""

    version: str
    cuda: str | None
    """The CUDA that it was built for."""
    hip: str | None
    """The same of ROCm."""
    devices: tuple[Device, ...] = ()
    why_none: str = ""
    driver_cuda: int = 0
    """The newest CUDA of the driver, 12080 for 12.8; 0: nobody knows."""
    architectures: tuple[str, ...] = ()
    """sm_90, compute_90 and so on, for which it has code."""


def torch_and_gpus(machine: Machine) -> Findings:
    """In a process of its own: a broken library may end it by a signal."""
    waiting = "torch did not answer in time"
    cure = "Wait longer: rdm doctor --seconds 60. The disk of the environment is slow or busy"
    silent = note("torch", waiting, cure)
    broken = fails("torch", "it cannot be imported", f"{reinstall('torch', 'torchvision')}")
    yield from found_apart("flows.doctor.gpus", machine, silent, broken)


def look() -> Findings:
    """In that process: the driver is asked while torch is imported."""
    asked = None
    smi = shutil.which("nvidia-smi")
    if smi:
        asked = subprocess.Popen(
            [smi, ASKED, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    with large_import():
        build = build_of_torch()
    driver = Driver(silent_cards=cards_on_the_bus())
    if asked is not None:
        driver = answer_of_smi(asked)
    yield from judged(build, driver, os.environ.get("CUDA_VISIBLE_DEVICES"))


def answer_of_smi(asked: "subprocess.Popen[bytes]") -> Driver:
    """What nvidia-smi says."""
    try:
        said = asked.communicate(timeout=SECONDS_OF_SMI)[0].decode("utf-8", "replace").strip()
    except subprocess.TimeoutExpired:
        asked.kill()
        return Driver(trouble=f"it does not answer within {SECONDS_OF_SMI:g} s")
    if asked.returncode != 0:
        return Driver(trouble=" ".join(said.split())[:200] or f"exit code {asked.returncode}")
    return Driver(cards=read_cards(said))


def read_cards(said: str) -> tuple[Card, ...]:
    """A card a line; what a card does not tell ([N/A]) is 0, and another line is none."""
    cards = []
    for line in said.splitlines():
        fields = [field.strip() for field in line.rsplit(",", 3)]
        if len(fields) == 4:
            total, free = (int(text) if text.isdigit() else 0 for text in fields[2:])
            cards.append(Card(fields[0], fields[1], total, free))
    return tuple(cards)


def cards_on_the_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """GPUs of NVIDIA that the kernel lists, with or without a driver."""
    count = 0
    for device in devices.glob("*"):
        with suppress(OSError):
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii")
            count += vendor == NVIDIA and kind.startswith(DISPLAY)
    return count


def build_of_torch() -> Build:
    """Imports torch, and asks it for its devices."""
    import torch

    version = torch.version
    cuda, hip = version.cuda, getattr(version, "hip", None)
    if not torch.cuda.is_available():
        why, driver_cuda = "", 0
        if cuda:
            with suppress(Exception):
                driver_cuda = getattr(torch._C, "_cuda_getDriverVersion")()  # noqa: B009 - untyped
            try:
                torch.cuda.init()
            except Exception as error:
                why = str(error).strip().splitlines()[0]
        return Build(torch.__version__, cuda, hip, (), why, driver_cuda)
    devices = []
    for number in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(number)
        devices.append(Device(seen.name, seen.total_memory, (seen.major, seen.minor)))
    architectures = tuple(torch.cuda.get_arch_list())
    return Build(torch.__version__, cuda, hip, tuple(devices), architectures=architectures)


def judged(build: Build, driver: Driver, visible: str | None = None) -> Findings:
    """What follows from both; `visible` is CUDA_VISIBLE_DEVICES."""
    made_for = f"CUDA {build.cuda}" if build.cuda else f"ROCm {build.hip}" if build.hip else "CPUs"
    yield fine("torch", f"{build.version}, built for {made_for}")
    if driver.trouble:
        cure = "Install the driver anew, or restart the machine after its upgrade"
        yield fails("gpu", f"nvidia-smi fails: {driver.trouble}", cure)
    if build.devices:
        yield from _devices(build, driver)
    elif driver.cards:
        yield from _unused(build, driver, visible)
    elif driver.silent_cards:
        what = f"{driver.silent_cards} of NVIDIA in this machine, without a driver: nothing uses it"
        cure = "Install NVIDIA's driver; in a container, start it with its GPUs (--gpus all)"
        yield note("gpu", what, cure)
    elif not driver.trouble:
        yield fine("gpu", "none: everything is computed by the CPU")


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a torch with code for these architectures has some for a GPU of that capability: of
    its own generation and not newer, or to be compiled by the driver.
    """
    major, minor = capability
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = "".join(digit for digit in digits if digit.isdigit())
        if len(number) < 2:
            continue
        of = int(number[:-1]), int(number[-1])
        if kind == "sm" and of[0] == major and of[1] <= minor:
            return True
        if kind == "compute" and of <= (major, minor):
            return True
    return False


def _devices(build: Build, driver: Driver) -> Findings:
    """The GPUs that torch computes with."""
    version = f", driver {driver.cards[0].driver}" if driver.cards else ""
    for number, device in enumerate(build.devices):
        capability = ".".join(map(str, device.capability))
        told = f"{number}: {device.name}, {device.total_bytes / 1e9:.1f} GB"
        told += f", compute capability {capability}{version}"
        if build.cuda and not runs_on(device.capability, build.architectures):
            what = f"{told}: torch {build.version} has code for {' '.join(build.architectures)}"
            cure = "Install a torch whose builds hold that capability, or hide this GPU: "
            yield fails("gpu", f"{what} alone", f"{cure}CUDA_VISIBLE_DEVICES=")
        else:
            yield fine("gpu", told)
    for number, card in enumerate(driver.cards):
        if card.total_mb and card.free_mb < LITTLE_FREE * card.total_mb:
            what = f"{number}: {card.free_mb / 1e3:.1f} of {card.total_mb / 1e3:.1f} GB are free"
            cure = "nvidia-smi says who holds it; CUDA_VISIBLE_DEVICES=N takes another GPU"
            yield note("gpu", what, cure)


def _unused(build: Build, driver: Driver, visible: str | None) -> Findings:
    """GPUs that the driver knows and torch does not."""
    card = driver.cards[0]
    told = f"{len(driver.cards)} x {card.name}" if driver.cards[1:] else card.name
    told = f"{told} (driver {card.driver}) is not used"
    if build.cuda is None:
        yield note("gpu", f"{told}: torch {build.version} is a build for CPUs", CUDA_BUILD)
    elif build.driver_cuda and build.driver_cuda // 1000 < int(build.cuda.split(".")[0]):
        has = f"{build.driver_cuda // 1000}.{build.driver_cuda % 1000 // 10}"
        what = f"{told}: the driver knows CUDA up to {has}, torch was built for {build.cuda}"
        cure = f"Update the driver, or install a torch built for CUDA {has} or less"
        yield fails("gpu", what, cure)
    elif visible is not None:
        yield note("gpu", f"{told}: CUDA_VISIBLE_DEVICES={visible}", "unset CUDA_VISIBLE_DEVICES")
    else:
        what = f"{told}: torch says: {build.why_none or 'no device'}"
        cure = "See dmesg for NVRM or Xid; a restart mends what an upgrade of the driver has left"
        yield fails("gpu", what, cure)


if __name__ == "__main__":
    say_all(look)
