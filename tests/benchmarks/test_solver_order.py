"""The benchmark behind the plot of solver orders."""

from __future__ import annotations

import pytest

from benchmarks.solver_order import ODE_SAMPLERS, STEPS, measure, order, table


def test_the_table_holds_every_error_and_the_measured_order():
    errors = {name: [count**-2.0 for count in STEPS] for name in ODE_SAMPLERS}
    rows = table(errors).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(ODE_SAMPLERS)
    assert all(row.endswith("| 2.00 |") and row.count("|") == len(STEPS) + 3 for row in rows)


def test_the_order_is_that_of_the_last_doubling():
    assert order([1.0, 8.0, 1.0]) == pytest.approx(3)


def test_the_measured_error_falls_with_the_number_of_steps():
    assert all(coarse > fine for coarse, fine in measure(steps=(20, 40)).values())
