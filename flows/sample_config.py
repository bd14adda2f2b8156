"""The parameters of a sample, under the name that programs import them by."""

from flows.config.sample import SampleRDM

__all__ = ["SampleRDM"]
