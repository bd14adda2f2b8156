"""The flows that prefect.yaml deploys, as Prefect knows them: what its entrypoints name."""

from flows.data import acquire as acquiring
from flows.data import rebuild as rebuilding
from flows.data import upkeep
from flows.judge import evaluate
from flows.model import sample
from flows.model import train_autoencoder as of_autoencoders
from flows.model import train_rdm as training
from flows.run.recorded import flow_of

acquire = flow_of(acquiring.acquire)
rebuild = flow_of(rebuilding.rebuild)
train_autoencoder = flow_of(of_autoencoders.train_autoencoder)
train_rdm = flow_of(training.train_rdm)
sample_rdm = flow_of(sample.sample_rdm)
evaluate_rdm = flow_of(evaluate.evaluate_rdm)
gc = flow_of(upkeep.gc)
