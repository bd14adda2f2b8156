"""The control of the prompts: what is drawn for another prompt's context."""

import numpy as np
import pytest

from flows.judge.measures import others_of
from rdm_core.judge.judges import ShapesJudge


@pytest.mark.parametrize("count", [2, 4, 63, 64, 65, 100, 128, 192, 256])
def test_another_prompt_is_another_one_however_often_prompts_come_again(count):
    prompts = [wish.prompt for wish in ShapesJudge().wishes(count)]
    others = others_of(prompts)
    assert len(others) == count
    assert not [place for place in range(count) if prompts[others[place]] == prompts[place]]


def test_it_is_half_the_list_away_where_prompts_differ():
    assert others_of(list("abcd")).tolist() == [2, 3, 0, 1]


def test_prompts_that_are_all_the_same_have_no_other():
    assert np.array_equal(others_of(["a"] * 3), [0, 1, 2]) and len(others_of([])) == 0


def test_a_caption_that_comes_twice_is_not_its_own_control():
    assert others_of(["a", "b", "a", "c"]).tolist() == [3, 3, 1, 1]
