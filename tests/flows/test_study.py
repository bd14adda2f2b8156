"""The study in small: every claim is measured, and the table says which hold."""

import json

import pytest

from flows.config import Study
from flows.evaluate import EVALUATION_FILE
from flows.study import CLAIMS, study, table_of


@pytest.fixture(scope="module")
def measured(small_demo):
    return study(Study(root=small_demo.config.root, scale=0.02, steps=12, seeds=1, images=11, sampler_steps=2))


def test_every_claim_is_measured(measured):
    figures = json.loads(measured[0].file(EVALUATION_FILE).read_text())
    assert set(figures) == {claim.name for claim in CLAIMS}
    assert all(isinstance(value, float) for value in figures.values())


def test_the_table_has_a_line_a_claim_with_threshold_figure_and_verdict(measured):
    lines = table_of(measured).splitlines()[2:]
    assert len(lines) == len(CLAIMS)
    assert all(line.rsplit("|", 2)[1].strip() in ("yes", "**no**") for line in lines)
    assert lines[0].startswith("| T1 gain | held-out loss: right neighbors below the learned null by | ≥ 5.0 % |")
