"""What measured rounds say about windows that were not tried."""

from __future__ import annotations

import pytest

from dreamprop.solver.timing import History, Known, Timed, along, typical


def test_seconds_lie_on_straight_lines_between_what_was_measured_and_never_fall() -> None:
    measured = {1: 1.0, 4: 2.5, 16: 8.5}
    assert [along(measured, w) for w in (1, 2, 4, 10, 16, 32)] == [1.0, 1.5, 2.5, 5.5, 8.5, 16.5]
    assert along({8: 3.0}, 2) == along({8: 3.0}, 64) == 3.0
    assert along({1: 2.0, 2: 1.0}, 8) == 1.0 and along({1: 2.0, 3: 1.0}, 2) == 1.5


def test_a_window_accepts_what_a_wider_one_accepted_up_to_its_size() -> None:
    known = Known({1: 1.0}, [Timed(8, 1.0, 3), Timed(8, 1.0, 7), Timed(4, 1.0, 4)])
    assert known.accepted(8) == 5.0
    assert known.accepted(4) == (3 + 4 + 4) / 3
    assert known.accepted(2) == 2.0 and known.accepted(1) == 1.0


def test_a_window_that_was_accepted_whole_might_have_been_wider() -> None:
    assert Known({1: 1.0}, [Timed(8, 1.0, 8)]).accepted(32) == 32
    assert Known({1: 1.0}, [Timed(8, 1.0, 8), Timed(8, 1.0, 4)]).accepted(32) == 18
    assert Known({1: 1.0}).accepted(32) == 32


def test_a_round_takes_no_longer_than_narrower_ones_one_after_another() -> None:
    known = Known({1: 1.0, 8: 3.0})
    assert [known.at_most(w) for w in (4, 8, 16, 24)] == [4.0, 3.0, 6.0, 9.0]


def test_a_window_is_measured_by_two_rounds_unless_they_are_too_short_for_a_clock() -> None:
    history, short = History(), History()
    for i in range(8):
        assert history.measured(4) == (i > 1) and not short.measured(4)
        history.add(Timed(4, 1.0, 4))
        short.add(Timed(4, 0.001, 4))
    assert short.measured(4)


def test_the_first_round_of_a_window_is_doubted() -> None:
    history = History()
    for round in [Timed(1, 1.0, 1), Timed(1, 1.0, 1), Timed(4, 9.0, 4)]:
        history.add(round)
    assert history.known().time(4) == 1.0
    history.add(Timed(4, 2.0, 4))
    assert history.known().time(4) == 2.0 and typical([9.0, 2.0, 4.0]) == 3.0


def test_what_plain_steps_would_have_saved() -> None:
    history = History()
    for round in [Timed(1, 9.0, 1), Timed(4, 3.0, 2), Timed(4, 3.0, 4)]:
        history.add(round)
    assert history.lost(1.0) == pytest.approx(0.0)
    assert history.lost(0.5) == pytest.approx(3.0)


def test_acceptance_is_told_by_rounds_since_the_last_choice() -> None:
    history = History()
    history.add(Timed(8, 1.0, 2))
    history.settle()
    assert history.known().recent == [] and history.reach() == 2
    history.add(Timed(8, 1.0, 6))
    assert history.known().accepted(8) == 6 and history.reach() == 6


def test_an_earlier_part_of_a_run_is_remembered_until_it_is_measured_again() -> None:
    history = History({1: 1.0, 8: 2.0})
    assert history.measured(8) and history.known().seconds == {1: 1.0, 8: 2.0}
    history.add(Timed(8, 4.0, 8))
    assert history.known().seconds == {1: 1.0, 8: 4.0}
