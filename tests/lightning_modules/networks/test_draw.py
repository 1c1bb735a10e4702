"""The attention of DRAW where its answer is known, and the step's shapes."""

import pytest
import torch
from torch.autograd import gradcheck

from foundation.errors import UserError
from lightning_modules.networks.draw import (
    LSTM,
    Attention,
    ConvolutionalClassifier,
    DrawNetwork,
    GlimpseClassifier,
    read,
    write,
)

AT_REST = torch.zeros(1, 5)  # g_X, g_Y, log variance, log stride, log intensity


def attention(*sizes: int, height: int = 28, width: int = 28) -> Attention:
    return Attention(4, sizes, height, width).double()


def centres(window) -> tuple[list[float], list[float]]:
    """Of the filters' columns and rows, in pixels counted from 0: exact where the grid is inside the image."""
    return tuple(
        (filters[0] @ torch.arange(filters.shape[2], dtype=filters.dtype)).tolist()
        for filters in (window.columns, window.rows)
    )


@pytest.mark.parametrize("size", [2, 5, 28])
def test_a_grid_at_rest_spans_exactly_the_image(size):
    parameters = AT_REST.double()
    parameters[0, 2] = -8  # so narrow that a filter at the edge is not cut
    (window,) = attention(size).windows(parameters)
    columns, rows = centres(window)
    assert columns == pytest.approx(torch.linspace(0, 27, size).tolist(), abs=0.5)
    assert (columns[0], columns[-1]) == pytest.approx((0, 27), abs=1e-6)
    assert rows == columns
    assert window.geometry[0, :3].tolist() == pytest.approx([13.5, 13.5, 27 / (size - 1)])


def test_filters_are_the_paper_s_with_its_indices_from_one():
    torch.manual_seed(0)
    parameters = torch.randn(3, 5, dtype=torch.float64) * 0.3
    size, height, width = 5, 12, 20
    (window,) = attention(size, height=height, width=width).windows(parameters)
    for example, (across, down, log_variance, log_stride, log_intensity) in enumerate(parameters.tolist()):
        variance = torch.tensor(log_variance).exp()
        stride = (max(height, width) - 1) / (size - 1) * torch.tensor(log_stride, dtype=torch.float64).exp()
        for filters, place, pixels in ((window.columns, across, width), (window.rows, down, height)):
            centre = (pixels + 1) / 2 * (place + 1)
            for i in range(1, size + 1):
                mean = centre + (i - size / 2 - 0.5) * stride
                weights = torch.exp(-((torch.arange(1, pixels + 1) - mean) ** 2) / (2 * variance))
                torch.testing.assert_close(filters[example, i - 1], weights / weights.sum(), atol=1e-7, rtol=1e-5)
        assert float(window.intensity[example]) == pytest.approx(torch.tensor(log_intensity).exp().item())


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4, 1e10])
def test_rows_sum_to_one_and_gradients_are_finite_however_extreme(scale):
    torch.manual_seed(0)
    parameters = (torch.randn(64, 10) * scale).requires_grad_()
    windows = Attention(4, [2, 5], 28, 20).windows(parameters)
    for window in windows:
        for filters in (window.rows, window.columns):
            torch.testing.assert_close(filters.sum(2), torch.ones(filters.shape[:2]))
            assert float(filters.detach().min()) >= 0
    images = torch.rand(64, 28, 1, 20)
    seen = read(images, windows[1])
    (read(images, windows[0]).sum() + write(seen, windows[1]).square().mean()).backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_two_windows_of_one_state_are_those_of_two():
    torch.manual_seed(0)
    parameters = torch.randn(3, 10, dtype=torch.float64)
    together = attention(5, 2).windows(parameters)
    for window, size, own in zip(together, (5, 2), parameters.chunk(2, dim=1), strict=True):
        (alone,) = attention(size).windows(own)
        assert all(torch.equal(*pair) for pair in zip(window, alone, strict=True))


def test_a_window_of_one_filter_has_no_stride():
    (window,) = attention(1).windows(torch.tensor([[0.0, 0.0, 0.0, 5.0, 0.0]]).double())
    assert centres(window) == (pytest.approx([13.5]), pytest.approx([13.5]))


def narrow(size: int, side: int = 8) -> tuple[Attention, torch.Tensor]:
    parameters = AT_REST.double()
    parameters[0, 2] = -10
    return attention(size, height=side, width=side), parameters


def test_reading_every_pixel_sharply_returns_the_image():
    att, parameters = narrow(8)
    images = torch.rand(1, 8, 3, 8, dtype=torch.float64)
    seen = read(images, att.windows(parameters)[0])
    torch.testing.assert_close(seen.view(1, 8, 3, 8), images)


def test_a_pixel_is_written_where_it_was_read():
    att, parameters = narrow(8)
    images = torch.zeros(1, 8, 1, 8, dtype=torch.float64)
    images[0, 2, 0, 5] = 1
    (window,) = att.windows(parameters)
    torch.testing.assert_close(write(read(images, window), window), images)


def test_intensity_multiplies_what_is_read_and_divides_what_is_written():
    att, parameters = narrow(3)
    louder = parameters.clone()
    louder[0, 4] = 1.5
    (plain,), (loud,) = att.windows(parameters), att.windows(louder)
    images, factor = torch.rand(1, 8, 1, 8, dtype=torch.float64), torch.tensor(1.5).double().exp()
    seen = read(images, plain)
    torch.testing.assert_close(read(images, loud), factor * seen)
    torch.testing.assert_close(write(seen, loud), write(seen, plain) / factor)


def test_a_mirrored_image_is_read_mirrored_where_the_grid_is_mirrored():
    torch.manual_seed(0)
    parameters = torch.randn(4, 5, dtype=torch.float64) * 0.5
    mirrored = parameters * torch.tensor([-1.0, 1, 1, 1, 1])
    att, images = attention(4, height=9, width=11), torch.rand(4, 9, 2, 11, dtype=torch.float64)
    seen = read(images, att.windows(parameters)[0])
    seen_mirrored = read(images.flip(3), att.windows(mirrored)[0])
    torch.testing.assert_close(seen_mirrored, seen.flip(2))
    upside_down = parameters * torch.tensor([1.0, -1, 1, 1, 1])
    seen_upside_down = read(images.flip(1), att.windows(upside_down)[0])
    torch.testing.assert_close(seen_upside_down.view(4, 4, 2, 4), seen.view(4, 4, 2, 4).flip(1))


def test_channels_share_the_filters():
    torch.manual_seed(0)
    (window,) = attention(3, height=7, width=6).windows(torch.randn(2, 5, dtype=torch.float64) * 0.3)
    images = torch.rand(2, 7, 3, 6, dtype=torch.float64)
    seen = read(images, window).view(2, 3, 3, 3)
    written = write(seen.flatten(2), window)
    for channel in range(3):
        alone = read(images[:, :, channel : channel + 1], window)
        torch.testing.assert_close(seen[:, :, channel], alone)
        torch.testing.assert_close(written[:, :, channel : channel + 1], write(alone, window))


def test_gradients_of_reading_and_writing_are_right():
    torch.manual_seed(0)
    att, images = attention(2, height=4, width=5), torch.rand(2, 4, 1, 5, dtype=torch.float64)

    def there_and_back(parameters):
        (window,) = att.windows(parameters)
        return write(read(images, window) ** 2, window)

    assert gradcheck(there_and_back, (torch.randn(2, 5, dtype=torch.float64, requires_grad=True) * 0.3,))


def test_the_lstm_is_torch_s():
    torch.manual_seed(0)
    ours, theirs = LSTM(3, 4), torch.nn.LSTMCell(3, 4)
    with torch.no_grad():
        keep, let_in, let_out, new = ours.linear.weight.chunk(4)
        theirs.weight_ih.copy_(torch.cat([let_in, keep, new, let_out])[:, :3])
        theirs.weight_hh.copy_(torch.cat([let_in, keep, new, let_out])[:, 3:])
        theirs.bias_ih.zero_()
        theirs.bias_hh.zero_()
    inputs, output, cell = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)
    for got, expected in zip(ours([inputs], output, cell), theirs(inputs, (output, cell)), strict=True):
        torch.testing.assert_close(got, expected)


def test_without_attention_the_whole_image_and_its_error_are_seen():
    torch.manual_seed(0)
    network = DrawNetwork([1, 3, 4], steps=2, hidden=5, latent=2, read_size=None, write_size=None)
    assert network.image_gates is not None
    images, noise = torch.rand(2, 3, 1, 4), torch.zeros(2, 2)
    state = network.start(2)
    state = state._replace(canvas=torch.randn(2, 3, 1, 4))
    after, _, _ = network(images, network.fixed_gates(images), state, noise)
    seen = torch.cat([images.flatten(1), (images - state.canvas.sigmoid()).flatten(1)], dim=1)  # eq. 17
    weight = torch.cat([network.image_gates.weight, network.encoder.linear.weight[:, :12]], dim=1)
    added = seen @ weight.T + network.encoder.linear.bias
    keep, let_in, let_out = added[:, :15].sigmoid().chunk(3, dim=1)
    torch.testing.assert_close(after.encoder[0], let_out * (let_in * added[:, 15:].tanh()).tanh())
    assert keep.shape == (2, 5)
    torch.testing.assert_close(after.canvas - state.canvas, network.patch(after.decoder[0]).view(2, 3, 1, 4))


@pytest.mark.parametrize(("read_size", "write_size"), [(2, 3), (None, 3), (2, None), (None, None), (1, 1)])
def test_every_combination_has_gradient_everywhere_and_takes_an_empty_batch(read_size, write_size):
    torch.manual_seed(0)
    network = DrawNetwork([3, 6, 4], 2, 5, 2, read_size, write_size, learn_init=True)
    for size in (0, 2):
        images, state = torch.rand(size, 6, 3, 4), network.start(size)
        for _ in range(3):
            state, _, _ = network(images, network.fixed_gates(images), state, torch.randn(size, 2))
        assert state.canvas.shape == (size, 6, 3, 4)
    state.canvas.square().sum().backward()
    assert all(it.grad is not None and it.grad.isfinite().all() for it in network.parameters())
    assert {name for name, _ in network.named_parameters()} >= {"initial_canvas", "initial_outputs"}


def test_a_classifier_looks_where_it_says():
    torch.manual_seed(0)
    network = GlimpseClassifier([1, 12, 12], num_classes=3, steps=4, hidden=6, read_size=3)
    output, windows = network.look(torch.rand(2, 1, 12, 12))
    assert len(windows) == 4
    assert windows[0].geometry[0, :3].tolist() == pytest.approx([5.5, 5.5, 5.5])
    assert not torch.equal(windows[1].geometry[0], windows[1].geometry[1])
    assert network(torch.rand(2, 1, 12, 12)).shape == (2, 3)
    assert output.shape == (2, 6)


def test_the_convolutional_net_is_as_large_as_the_one_that_looks():
    convolutional = ConvolutionalClassifier([1, 100, 100], 10, [16, 32, 64, 128], hidden=50)
    looking = GlimpseClassifier([1, 100, 100], 10, steps=8, hidden=256, read_size=12)
    sizes = [sum(it.numel() for it in net.parameters()) for net in (convolutional, looking)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert convolutional(torch.rand(2, 1, 100, 100)).shape == (2, 10)


def test_the_convolutional_net_takes_odd_sides_and_colours():
    assert ConvolutionalClassifier([3, 11, 6], 4, [2, 3], hidden=5)(torch.rand(2, 3, 11, 6)).shape == (2, 4)


@pytest.mark.parametrize(("channels", "hidden"), [([], 4), ([2, 0], 4), ([2], 0)])
def test_a_convolutional_net_without_width_is_refused(channels, hidden):
    with pytest.raises(UserError, match=r"network.channels is \[.*\], network.hidden .: give widths of 1 or more"):
        ConvolutionalClassifier([1, 8, 8], 2, channels, hidden)


@pytest.mark.parametrize("name", ["steps", "hidden", "latent", "read_size", "write_size"])
def test_a_size_that_cannot_be_is_refused(name):
    sizes = {"steps": 2, "hidden": 4, "latent": 2, "read_size": 2, "write_size": 2} | {name: 0}
    with pytest.raises(UserError, match=f"network.{name} is 0: give 1 or more"):
        DrawNetwork([1, 8, 8], **sizes)
