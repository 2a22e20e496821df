"""What a look at a run sees."""

from types import SimpleNamespace

from stormbreak.batch.run_sample import sample_run


def target(circuit="closed", cooldown=0.0, in_flight=3, limit=40):
    return {"circuit": circuit, "cooldown": cooldown, "in_flight": in_flight, "limit": limit}


def a_runner(*targets, width=50):
    """A run of which ten rows are under way and five will come back."""
    told = {"targets": {str(number): each for number, each in enumerate(targets)}}
    return SimpleNamespace(
        client=SimpleNamespace(snapshot=lambda *, pending: told),
        width=width,
        under_way=10,
        schedule=SimpleNamespace(waiting=5),
        journal=SimpleNamespace(done=7, failed=3, again=1),
        counts=SimpleNamespace(input_tokens=11, output_tokens=13),
    )


def test_targets_are_summed_up_and_waiting_is_who_is_not_in_flight():
    seen = sample_run(
        a_runner(target("open"), target("half_open", cooldown=1.0), target(), width=500)
    )

    assert (seen.in_flight, seen.limit) == (9, 120)
    assert seen.waiting == 10 - 9 + 5
    assert (seen.open_circuits, seen.cooling) == (2, 1)
    assert (seen.answered, seen.failed) == (7, 2)
    assert (seen.input_tokens, seen.output_tokens) == (11, 13)


def test_no_more_is_in_flight_than_the_run_is_wide():
    assert sample_run(a_runner(target(), target(), width=50)).limit == 50
    assert sample_run(a_runner(width=50)).limit == 50  # before anything was sent
