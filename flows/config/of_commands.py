"""Which class holds the parameters of which command. Importing this file takes all of them in."""

from typing import Any

from flows.config.acquire import AnyAcquire
from flows.config.autoencoder import TrainAutoencoder
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors, RemoveKeys
from flows.config.images import AnyImport
from flows.config.judge import Demo, EvaluateRDM, WriteReport
from flows.config.look import CompareDatabases, FindDuplicates, MapDatabase, SearchDatabase
from flows.config.plan import PlanPreset
from flows.config.sample import SampleRDM
from flows.config.train import AverageRun, ConvertOriginal, TrainRDM

OF_COMMAND: dict[str, Any] = {
    "demo": Demo,
    "acquire": AnyAcquire,
    "import": AnyImport,
    "build": BuildDatabase,
    "embed": BuildDatabase,
    "neighbors": FindNeighbors,
    "autoencoder": TrainAutoencoder,
    "encode": EncodeLatents,
    "train": TrainRDM,
    "plan": PlanPreset,
    "sample": SampleRDM,
    "edit": SampleRDM,
    "infill": SampleRDM,
    "caption": SampleRDM,
    "average": AverageRun,
    "convert": ConvertOriginal,
    "evaluate": EvaluateRDM,
    "report": WriteReport,
    "search": SearchDatabase,
    "map": MapDatabase,
    "compare": CompareDatabases,
    "duplicates": FindDuplicates,
    "remove": RemoveKeys,
}
