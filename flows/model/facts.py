"""What a run is built for, and what it says of itself."""

from collections.abc import Mapping
from dataclasses import asdict

from flows.config.train import TrainRDM
from flows.data.database import searched_by
from rdm_core.families.facts import RunFacts, Shape, Version
from storage.artifact import Artifact
from storage.embeddings import of_what
from storage.latents import side_of


def shape_of(inputs: Mapping[str, Artifact]) -> Shape:
    """What a run's model is built for."""
    channels = inputs["latents"].parameters["space"]["channels"]
    dimension = inputs["database"].parameters["encoder"]["dimension"]
    return Shape(channels, side_of(inputs["latents"]), dimension)


def run_facts(
    config: TrainRDM, inputs: Mapping[str, Artifact], shape: Shape, parameters: int
) -> RunFacts:
    """What somebody with the weights alone needs to know: what they are, what they read, what they
    were trained on.
    """
    latents, database = inputs["latents"], inputs["database"]
    trained_on = {}
    for role, artifact in inputs.items():
        trained_on[role] = Version(artifact.name, artifact.id, artifact.fingerprint)
    return RunFacts(
        family=config.model.family,
        model=asdict(config.model),
        encoder=database.parameters["encoder"],
        vectors_of=of_what(database),
        encoder_weights=database.measured["weights"],
        space=latents.parameters["space"],
        space_path=latents.measured["autoencoder_path"],
        latent_side=shape.side,
        k=config.context.k,
        random_k=config.context.random_k,
        neighbor_dropout=config.context.neighbor_dropout,
        steps=config.training.steps,
        parameters=parameters,
        trained_on=trained_on,
        search=searched_by(inputs["neighbors"]),
    )
