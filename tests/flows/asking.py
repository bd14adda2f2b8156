"""Small requests for samples."""

from flows.config.sample import SampleRDM
from flows.model.sample import sample_rdm


def sample(small_world, name, **request):
    common = {
        "root": small_world.root,
        "name": name,
        "run": "small",
        "draw": {"steps": 2},
        "count": 2,
        "k": 3,
    }
    return sample_rdm(SampleRDM(**common | request))
