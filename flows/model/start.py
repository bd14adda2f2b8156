"""A training that begins with the weights of another run: does that run fit?"""

from flows.config.train import TrainRDM
from flows.data.space_needed import PreflightFailed
from flows.model.opening import facts_of, same_space
from rdm_core.families import FACTS_FILE, read_config
from rdm_core.needs import DOES_NOT_BUILD, check_fits
from storage.artifact import Artifact, open_artifact
from storage.errors import ArtifactMismatch


def check_start(config: TrainRDM) -> None:
    """Look at the run that a training begins with, if it does, before anything is made; no weights
    are loaded.

    Raises what `run_to_start_from` raises, ArtifactMismatch for weights that would mean something
    else, RequestError for another network, and PreflightFailed for one that cannot be built.
    """
    if config.start_from is None:
        return
    begun = run_to_start_from(config)
    facts = facts_of(begun)
    weights = begun.file(f"weights/{FACTS_FILE}").parent
    other = read_config(weights, facts)
    for name, chosen in other.beside_weights.items():
        asked = config.model.beside_weights[name]
        if asked != chosen:
            raise ArtifactMismatch(
                f"start_from={config.start_from}",
                f"that run was trained with model.{name}={chosen}, and this training asks for "
                f"{asked}: its weights would mean something else",
                f"Use the same model.{name}, or leave start_from out.",
            )
    try:
        check_fits(config.model, other, facts.shape)
    except DOES_NOT_BUILD as error:
        what = f"the network cannot be built for the latents of {config.start_from}: {error}"
        cure = "Change model. Nothing has been started."
        raise PreflightFailed(f"train {config.name}", what, cure) from error


def run_to_start_from(
    config: TrainRDM, latents: Artifact | None = None, database: Artifact | None = None
) -> Artifact:
    """The run whose weights a training begins with.

    Raises ArtifactMismatch when it is of another family, or works in another latent space or with
    another encoder, as far as these are known.
    """
    assert config.start_from is not None, "asked for"
    run = open_artifact(config.root, "runs", config.start_from)
    facts = facts_of(run)
    space = latents.parameters["space"] if latents else facts.space
    fits = facts.family in config.model.starts_from
    differing = {
        "family": (facts.family, facts.family if fits else config.model.family),
        # The same one where only the name of its autoencoder is another.
        "latent space": (facts.space, facts.space if same_space(space, facts.space) else space),
        "encoder": (facts.encoder, database.parameters["encoder"] if database else facts.encoder),
    }
    for what, (its, asked) in differing.items():
        if its != asked:
            raise ArtifactMismatch(
                f"start_from={config.start_from}",
                f"that run is of another {what}: {its}, while this training asks for {asked}",
                f"Start from a run of the same {what}, or leave start_from out.",
            )
    return run
