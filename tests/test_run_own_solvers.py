"""What an allocator of one's own decides is checked, in a plan as in a run."""

import pytest

from cutlayer.errors import AllocationError
from cutlayer.planning.plan import plan
from helpers import small_job
from own_solvers import FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_decisions_that_cannot_be_carried_out_are_refused_in_one_sentence(name: str) -> None:
    job = small_job(f"method.allocation.solver=own_solvers:{name}", world={})
    with pytest.raises(AllocationError) as refused:
        plan(job)
    said = str(refused.value)
    assert said.startswith(f"method.allocation.solver: 'own_solvers:{name}' ")
    assert FAULTS[name][1] in said


@pytest.mark.parametrize(
    ("field", "value"), [("bits", "[3]"), ("bits", "[4,16]"), ("cuts", "[4]"), ("tokens", "[5]")]
)
def test_what_auto_may_choose_from_must_have_been_calibrated(field: str, value: str) -> None:
    job = small_job(f"method.allocation.{field}={value}", method="auto", world={})
    with pytest.raises(AllocationError, match=f"method.allocation.{field}: .* not calibrated"):
        plan(job)
