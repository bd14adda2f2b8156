"""The parameters of a sample under the name that programs have imported them by so far."""

from flows.config.sample import SampleRDM

__all__ = ["SampleRDM"]
