"""A network that answers with the image, the head that hides its patches, and when it is guided in
pixels.
"""

from dataclasses import replace

import pytest
import torch
from drawing import SIDE, Undecoded, calls_of, contexts, draw, model_of
from tiny import TINY

from rdm_core.context import nothing
from rdm_core.families.diffusion.config import DenoiserConfig, Draw, NoiseConfig
from rdm_core.families.diffusion.denoiser import build_denoiser, load_denoiser
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching, process_of

IMAGE = FlowMatching(predicts_image=True)
WITH_HEAD = replace(TINY["transformer"], detail_channels=6)
CPU = torch.device("cpu")


def noised(times: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Images, noise, and both mixed and compared at these times, each [B, 3, 8, 8]."""
    images, noise = torch.randn(2, len(times), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, noise, *IMAGE.corrupt(images, noise, times)


def test_the_right_image_is_the_right_velocity_and_leads_back_to_itself():
    times = torch.tensor([0.05, 0.3, 0.99, 1.0])
    images, noise, mixed, velocity = noised(times)
    prediction = IMAGE.prediction(images, mixed, times)
    torch.testing.assert_close(prediction, velocity, rtol=1e-4, atol=1e-4)
    found = IMAGE.clean(mixed, prediction, times)
    torch.testing.assert_close(found, (images, noise), rtol=1e-4, atol=1e-4)


def test_a_difference_is_never_divided_by_a_time_below_a_twentieth():
    times = torch.tensor([0.0, 0.01, 0.05])
    images, _, mixed, _ = noised(times)
    answer = images + 1
    expected = (mixed - answer) / 0.05
    torch.testing.assert_close(IMAGE.prediction(answer, mixed, times), expected)


@pytest.mark.parametrize("process", [FlowMatching(), Diffusion(), Diffusion(velocity=True)])
def test_other_processes_take_an_answer_as_it_is(process):
    answer = torch.randn(2, 3, 8, 8)
    assert process.prediction(answer, torch.zeros(2, 3, 8, 8), torch.rand(2)) is answer


def test_its_loss_compares_velocities(tiny_denoiser):
    model = model_of(tiny_denoiser(), IMAGE)
    inputs = model.example(5, 2, CPU)
    noisy, velocity = IMAGE.corrupt(inputs.clean, inputs.noise, inputs.times)
    with torch.no_grad():
        image = model.denoiser(noisy, 1000 * inputs.times, inputs.context)
        found = model(inputs)
    said = (noisy - image) / inputs.times.clamp(min=0.05)[:, None, None, None]
    torch.testing.assert_close(found, (said - velocity).square().mean(dim=(1, 2, 3)))


def test_one_step_from_noise_gives_the_image_that_the_network_answers_with(tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)
    drawn = draw(denoiser, context, [1, 2], process=IMAGE, space=Undecoded(), steps=1,
                 guidance_scale=1.0)  # fmt: skip
    noise = [torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    with torch.no_grad():
        image = denoiser(torch.stack(noise), torch.full((2,), 1000.0), context)
    torch.testing.assert_close(torch.from_numpy(drawn), image, rtol=1e-4, atol=1e-4)


def test_a_configuration_asks_for_it_and_for_the_flow_alone():
    assert process_of(NoiseConfig(process="flow", predicts="image")) == IMAGE
    for process in ("epsilon", "velocity"):
        message = f"predicts: image needs process=flow, is {process}; use target"
        with pytest.raises(ValueError, match=message):
            NoiseConfig(process=process, predicts="image")


# -- the head


def test_the_head_sees_over_the_borders_of_patches():
    """A change of one input pixel changes pixels of the next patch through the head alone."""
    denoiser = build_denoiser(WITH_HEAD, 3, 8, 8, seed=0)
    patches = torch.zeros(1, 6, 8, 8)
    x = torch.zeros(1, 3, 8, 8)
    moved = x.clone()
    moved[0, 0, 3, 3] = 1.0  # the last pixel of the first patch of 4
    changed = denoiser.detail(patches, moved) - denoiser.detail(patches, x)
    reached = changed.abs().sum(dim=1)[0] > 0
    assert reached[4, 4] and reached[1:6, 1:6].all()
    assert reached.sum() == 25, "two convolutions of 3x3 reach two pixels far"


def test_a_network_with_a_head_is_saved_and_loaded_whole(tiny_denoiser, tmp_path):
    denoiser = tiny_denoiser(WITH_HEAD)
    denoiser.save(tmp_path)
    loaded = load_denoiser(tmp_path, WITH_HEAD, 8)
    x, times = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0])
    with torch.no_grad():
        answers = [network(x, times, nothing(2, 8)) for network in (denoiser, loaded)]
    assert answers[0].shape == x.shape and torch.equal(*answers)


def test_a_head_is_for_transformers():
    with pytest.raises(ValueError, match="detail_channels: 6 are for the patches of a transformer"):
        DenoiserConfig(network="unet", detail_channels=6)


# -- guidance in pixels


def evaluations(denoiser, how, process, space=None):
    """Times at which the null was asked, in ten steps."""
    calls = calls_of(denoiser)
    model_of(denoiser, process, space).draw(contexts(1), [1], how)
    return sorted(time for time, context in calls if not context.mask.any())


def test_in_pixels_guidance_leaves_the_last_steps_alone_unless_asked(tiny_denoiser):
    usual = evaluations(tiny_denoiser(), Draw(steps=10), FlowMatching())
    assert usual == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    always = Draw(steps=10, guidance_interval=(0.0, 1.0))
    assert len(evaluations(tiny_denoiser(), always, FlowMatching())) == 10


def test_latents_and_the_processes_of_2022_are_guided_always(tiny_denoiser):
    class Latents(Undecoded):
        autoencoder = object()

    how = Draw(steps=10)
    assert len(evaluations(tiny_denoiser(), how, FlowMatching(), Latents())) == 10
    assert len(evaluations(tiny_denoiser(), how, Diffusion())) == 10


def test_a_scale_of_zero_never_sees_the_neighbors(tiny_denoiser):
    denoiser = tiny_denoiser()
    calls = calls_of(denoiser)
    model_of(denoiser).draw(contexts(1), [1], Draw(steps=10, guidance_scale=0.0))
    assert not any(context.mask.any() for _, context in calls)
