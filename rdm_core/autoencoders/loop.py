"""Training an autoencoder from where it is to its last step, telling and keeping as it goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rdm_core.autoencoders.config import AutoencoderReporting
from rdm_core.autoencoders.train import AutoencoderTraining, State, learning_rate
from rdm_core.errors import TrainingStopped


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; it knows nothing of files."""

    log: Callable[[Mapping[str, float]], None]
    """Takes one record of metrics: step, loss, its terms, learning_rate."""
    save: Callable[[int, State], None]
    """Takes (steps done, everything needed to resume)."""
    stepped: Callable[[int], None] = lambda step: None
    """Called after every step with the steps done."""
    stopping: Callable[[], bool] = lambda: False
    """Called after every step. When it returns True, the state is saved and TrainingStopped raised.
    """


def train_to_the_end(
    training: AutoencoderTraining, hooks: Hooks, reporting: AutoencoderReporting
) -> None:
    """Step until the config's steps are done.

    A record tells of the mean of the steps since the last one, of which a state that is kept holds
    the losses: a resumed training tells what an unbroken one does. Raises TrainingStopped, and what
    `step` raises.
    """
    config, told = training.config, training.told
    while training.done < config.steps:
        rate = learning_rate(config, training.done)
        told.append(training.step())
        done = training.done
        hooks.stepped(done)
        keep = done % reporting.checkpoint_steps == 0 or done == config.steps
        if keep or done % reporting.log_steps == 0:
            hooks.log({"step": done, **mean_losses(training, told), "learning_rate": rate})
            told.clear()
        stopping = hooks.stopping() and done < config.steps
        if keep or stopping:
            hooks.save(done, training.state())
        if stopping:
            raise TrainingStopped(f"stopped after step {done}, whose state is kept")


def mean_losses(training: AutoencoderTraining, told: list[dict[str, float]]) -> dict[str, float]:
    """The mean over some steps of the terms that each of them had, and `loss`, their weighted sum.

    What the discriminator has of its own is no part of the sum: its pull is a share of the rest.
    """
    # In one order, whatever the order of what was kept and read again: sums differ by it.
    names = sorted({name for losses in told for name in losses})
    means = {}
    for name in names:
        means[name] = float(np.mean([losses[name] for losses in told if name in losses]))
    loss = 0.0
    for name, mean in means.items():
        if name != "adversarial":
            loss += getattr(training.config, name) * mean
    return {"loss": loss, **means}
