"""Training an autoencoder from where it is to its last step, telling and keeping as it goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rdm_core.autoencoders.config import AutoencoderReporting
from rdm_core.autoencoders.train import AutoencoderTraining, State, learning_rate


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; it knows nothing of files."""

    log: Callable[[Mapping[str, float]], None]
    """Takes one record of metrics: step, loss, its terms, learning_rate."""
    save: Callable[[int, State], None]
    """Takes (steps done, everything needed to resume)."""
    stepped: Callable[[int], None] = lambda step: None
    """Called after every step with the steps done."""


def train_to_the_end(
    training: AutoencoderTraining, hooks: Hooks, reporting: AutoencoderReporting
) -> None:
    """Step until the config's steps are done.

    A record tells of the mean of the steps since the last one. Whenever a state is kept, a record
    is told first, so that a resumed training tells what an unbroken one does. Raises what `step`
    raises.
    """
    config = training.config
    told: list[dict[str, float]] = []
    while training.done < config.steps:
        rate = learning_rate(config, training.done)
        told.append(training.step())
        done = training.done
        hooks.stepped(done)
        keep = done % reporting.checkpoint_steps == 0 or done == config.steps
        if keep or done % reporting.log_steps == 0:
            hooks.log({"step": done, **mean_losses(training, told), "learning_rate": rate})
            told.clear()
        if keep:
            hooks.save(done, training.state())


def mean_losses(training: AutoencoderTraining, told: list[dict[str, float]]) -> dict[str, float]:
    """The mean over some steps of the terms that each of them had, and `loss`, their weighted sum.

    What the discriminator has of its own is no part of the sum: its pull is a share of the rest.
    """
    names = dict.fromkeys(name for losses in told for name in losses)
    means = {}
    for name in names:
        means[name] = float(np.mean([losses[name] for losses in told if name in losses]))
    loss = 0.0
    for name, mean in means.items():
        if name != "adversarial":
            loss += getattr(training.config, name) * mean
    return {"loss": loss, **means}
