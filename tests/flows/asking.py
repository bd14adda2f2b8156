"""What tests ask of stages: small requests, and what of a request is not a default."""

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


def changed(config):
    """The parameters of a stage that are not the defaults."""
    values = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value != field.get_default():
            values[name] = value
    return values
