"""Which rows a step learns from, and by which random numbers."""

from comfyui_unclip.unclip_core.training.batches import MicroBatches, held_out, rows_of_step, step_seed
from comfyui_unclip.unclip_core.training.recipes import Recipe


def test_every_row_is_seen_once_an_epoch_in_a_new_order():
    rows = [row for step in range(15) for row in rows_of_step(step, 4, 10, seed=3)]  # six epochs of ten
    epochs = [rows[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert rows_of_step(7, 4, 10, 3) == rows[28:32] != rows_of_step(7, 4, 10, 4)
    assert sorted(rows_of_step(0, 25, 10, 3)) == sorted([*range(10), *range(10), *rows_of_step(0, 25, 10, 3)[20:]])


def test_seeds_differ_in_everything_named():
    seeds = {step_seed(s, step, what, micro) for s in (0, 1) for step in (0, 1) for what in "ab" for micro in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)


class Echo:
    """A batch that says what it was made of."""

    def batch(self, rows, rng, generator):
        return rows, rng.random()


def test_micro_batches_cut_a_step_and_have_random_numbers_of_their_own():
    recipe = Recipe(steps=2, batch=6, lr=1.0, micro_batch=2)
    batches = MicroBatches(Echo(), recipe, range(100, 120))
    made = [batches[number] for number in range(6)]
    for step in (0, 1):
        rows = [row for part, _ in made[3 * step : 3 * step + 3] for row in part]
        assert rows == [100 + place for place in rows_of_step(step, 6, 20, recipe.seed)]
    assert len({drawn for _, drawn in made}) == 6 and batches[4] == made[4]
    gathers = Echo()
    gathers.gathers = True
    assert MicroBatches(gathers, recipe, range(100, 120))[1][0] == [row for part, _ in made[:3] for row in part]


def test_rows_are_held_out_by_the_seed_alone():
    rows = list(range(1000, 2000))
    kept, held = held_out(rows, 0.02, 1)
    assert len(held) == 20 and sorted(kept + held) == rows and kept == sorted(kept)
    assert held_out(rows, 0.02, 1) == (kept, held) != held_out(rows, 0.02, 2)
    assert len(held_out(rows[:150], 0.02, 1)[1]) == 8
    assert held_out(rows[:99], 0.02, 1) == (rows[:99], []) and held_out(rows, 0.0, 1) == (rows, [])
