import numpy as np
import torch
from scipy.stats import kstest

from foundation.randomness import GOLDEN, keyed_generator, keyed_uniforms, mixed


def draw(*key) -> list[float]:
    return torch.rand(4, generator=keyed_generator(*key)).tolist()


def test_a_draw_is_a_function_of_its_key_alone():
    first = draw(0, "codes", 7)
    torch.rand(100)
    assert draw(0, "codes", 7) == first
    others = [draw(1, "codes", 7), draw(0, "order", 7), draw(0, "codes", 8), draw(0, "codes")]
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == 4


def test_the_draws_do_not_change_between_versions():
    # A record names its seed: these very numbers have to come again.
    assert keyed_generator(0, "codes", 7).initial_seed() == 16738091482965016625


def test_numbers_of_many_rows_are_splitmix64_s():
    """From the seed 1234567 its authors' program gives 6457827717110365317 and 3203168211198807973."""
    assert mixed(np.array([1234567], np.uint64) + GOLDEN * np.array([1, 2], np.uint64)).tolist() == [
        6457827717110365317, 3203168211198807973
    ]  # fmt: skip


def test_a_row_of_numbers_depends_on_its_number_and_key_alone():
    rows = np.arange(50)
    whole = keyed_uniforms(0, "masks", 3, rows=rows, columns=20)
    assert whole.shape == (50, 20)
    assert (keyed_uniforms(0, "masks", 3, rows=rows[[7, 3]], columns=5) == whole[[7, 3], :5]).all()
    others = [(1, "masks", 3), (0, "order", 3), (0, "masks", 4), (0, "masks")]
    assert all((keyed_uniforms(*key, rows=rows, columns=20) != whole).all() for key in others)


def test_numbers_of_rows_are_uniform_and_know_nothing_of_one_another():
    numbers = keyed_uniforms(0, "test", rows=np.arange(400), columns=250)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    for one, other in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.015
