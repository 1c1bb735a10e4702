import torch

from foundation.randomness import keyed_generator


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
