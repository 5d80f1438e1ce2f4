"""The real engine and policy beside an independent model, in virtual time; and that the model can tell wrong ones.

More examples: tests/soak/test_soak_clock.py."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.model_rules import EngineBesideModel
from tests.support.mutants import MUTANTS, breed
from vmsh_scheduler.errors import Usage


def held_against_the_model(examples: int, steps: int, *, shrink: bool = False) -> None:
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(EngineBesideModel, settings=how)


def test_the_engine_does_what_the_model_says() -> None:
    held_against_the_model(60, 40)


@pytest.mark.no_cover  # what it runs is measured with others, and measuring takes twice as long
@pytest.mark.parametrize("name", MUTANTS)
def test_what_bites_a_wrong_scheduler_is_told_from_the_real_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breed(name, monkeypatch)
    with pytest.raises((AssertionError, Usage)):
        held_against_the_model(1_500, 40)
