"""Drawing from Python, as the README calls it: what programs import."""

from flows.config.sample import SampleRDM
from flows.model.sample import sample_rdm

__all__ = ["SampleRDM", "sample_rdm"]
