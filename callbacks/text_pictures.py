"""Pictures of what a model makes of texts: the words that it fills masks with, and which token looks at which."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.instruments.pictures import log_picture, shortened, write_figure
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import FillsMasks, HoldsTokens, PredictsTokens, serves

LIKELIEST = 5
MASKS = 6  # of a text that are shown
COLUMNS = 118  # letters of a line
ROOM = 4  # letters, of a mask's number
FONT = "DejaVu Sans Mono"  # comes with matplotlib; every letter as wide as any other
LETTER = 0.602  # its width, of the size
SIZE = 9.0  # points
RIGHT, WRONG, PALE, GREY = "#009E73", "#0072B2", "#E8EEF4", "#8A8F98"
SHORTEST, SEARCHED = 12, 512  # tokens of a text that is shown, at least, and rows among which the shortest are chosen
LONGEST, LONGEST_SMALL = 24, 16  # tokens of the text whose attention is shown, and where panels are small
FEW_HEADS = 6


@dataclass(frozen=True)
class Filled:
    """A mask's place in its row, the piece that was there, and the likeliest ones with their probabilities."""

    place: int
    was: str
    told: Sequence[tuple[str, float]]


class TextPictures(Callback):
    """Writes ``masked_words.png`` and ``attention.png`` in the test, of a model that fills masks.

    The first shows short texts of the test: what the model reads, with the tokens that it was asked for framed (a
    mask, or what stands there in its place), and of each the five likeliest tokens, the right one in green. The second
    shows of the shortest how much each token (a row) looks at each other one (a column), for all heads of all layers.

    Args:
        folder: where the pictures go.
        texts: of the first picture.
    """

    requires = PredictsTokens
    requires_data = HoldsTokens

    def __init__(self, folder: str, texts: int = 4) -> None:
        if texts < 1:
            raise UserError(f"callbacks.text_pictures.texts is {texts}: give 1 or more.")
        self.folder, self.texts = Path(folder), texts

    def pictures(self, module: Any) -> set[str]:
        """None of one that reads from the left: it has no masks to fill."""
        return {"test/masked_words", "test/attention"} if serves(module, FillsMasks) else set()

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.pictures(pl_module):
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        table, tokenizer = data.tables["test"], data.tokenizer
        path = self.folder / "masked_words.png"
        shown = short_rows(table, self.texts)
        with evaluating(pl_module):
            draw_masked_words(*told_of(pl_module, shown, tokenizer), path)
        log_picture(trainer, "test/masked_words", path)
        path = self.folder / "attention.png"
        with evaluating(pl_module):
            weights, pieces = attention_of(pl_module, shown, tokenizer)
        draw_attention(weights, pieces, path)
        log_picture(trainer, "test/attention", path)


# --- what the model says ---------------------------------------------------------------------------------------------


def told_of(
    module: Any, batch: Mapping[str, Tensor], tokenizer: Any
) -> tuple[list[list[str]], list[list[Filled]], list[str]]:
    """Of each row of a batch its pieces, its masks in their order, and what is said of its second part."""
    given = {name: batch[name].to(module.device) for name in ("input_ids", "lengths", "segment_ids")}
    positions = batch["masked_positions"][:, :MASKS].to(module.device)
    shares = module.token_logits(positions=positions, **given).softmax(2)[..., : len(tokenizer)]
    found = shares.topk(min(LIKELIEST, len(tokenizer)), 2)
    pieces = [
        tokenizer.decode(ids[:length])
        for ids, length in zip(batch["input_ids"].tolist(), batch["lengths"].tolist(), strict=True)
    ]
    filled: list[list[Filled]] = []
    for row, ids in enumerate(batch["masked_ids"][:, :MASKS].tolist()):
        filled.append([])
        for slot, was in enumerate(ids):
            if was >= 0:
                told = tokenizer.decode(found.indices[row, slot].tolist())
                told = [*zip(told, found.values[row, slot].tolist(), strict=True)]
                filled[-1].append(Filled(int(positions[row, slot]), tokenizer.decode([was])[0], told))
    follows = [""] * len(pieces)
    if module.predicts_next_sentence:
        shares = module.next_sentence_logits(**given).softmax(1)[:, 0].tolist()
        truth = ("it does", "it is random")
        follows = [f"The second part follows the first: {share:.0%}; {truth[is_random]}."
                   for share, is_random in zip(shares, batch["is_random_next"].tolist(), strict=True)]  # fmt: skip
    return pieces, filled, follows


def short_rows(table: Any, count: int) -> dict[str, Tensor]:
    """The shortest of the first rows that are not all too short, the shortest first: a person can read them."""
    rows = torch.arange(min(SEARCHED, len(table)))
    lengths = table[rows]["lengths"].cpu()
    order = torch.where(lengths < SHORTEST, lengths.max() + SHORTEST - lengths, lengths).argsort(stable=True)
    return table[rows[order[:count]]]


def attention_of(module: Any, batch: Mapping[str, Tensor], tokenizer: Any) -> tuple[Tensor, list[str]]:
    """Of the first row, cut where it is long: [layers, heads, L, L] on the CPU, and its pieces."""
    whole = int(batch["lengths"][0])
    for longest in (LONGEST, LONGEST_SMALL):
        length = min(whole, longest)
        ids, segments = batch["input_ids"][:1, :length].clone(), batch["segment_ids"][:1, :length]
        if length < whole:
            ids[0, -1] = tokenizer.sep
        given = (ids, torch.tensor([length]), segments)
        weights = module.attention(*(it.to(module.device) for it in given))[:, 0]
        if weights.shape[1] <= FEW_HEADS:
            break
    return weights.cpu(), tokenizer.decode(ids[0].tolist())


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """Where a piece is written: letters from the left, lines from the top. number: of its mask, from 1; 0: none."""

    text: str
    column: int
    line: int
    number: int


def laid_out(pieces: Sequence[str], numbers: Mapping[int, int], columns: int = COLUMNS) -> list[Word]:
    """Pieces in lines of so many letters, those of a word together; one with a number has room for it and stands by
    itself. [CLS] is left out."""
    words: list[tuple[str, int]] = []
    for place, piece in enumerate(pieces[1:], start=1):
        number = numbers.get(place, 0)
        if piece.startswith("##") and words and not number and not words[-1][1] and not words[-1][0].endswith("]"):
            words[-1] = (words[-1][0] + piece.removeprefix("##"), 0)
        else:
            words.append((piece, number))
    laid, column, line = [], 0, 0
    for text, number in words:
        text = shortened(text, columns - ROOM)
        width = len(text) + (ROOM if number else 0)
        if column and column + width > columns:
            column, line = 0, line + 1
        laid.append(Word(text, column, line, number))
        column += width + 1
    return laid


def draw_masked_words(
    pieces: Sequence[Sequence[str]], filled: Sequence[Sequence[Filled]], follows: Sequence[str], path: Path
) -> None:
    """A block for each text: its words, and bars of the likeliest pieces for each of its masks."""
    laid = [laid_out(it, {mask.place: number for number, mask in enumerate(masks, start=1)})
            for it, masks in zip(pieces, filled, strict=True)]  # fmt: skip
    lines = [
        max((it.line for it in words), default=0) + 1 + bool(told) for words, told in zip(laid, follows, strict=True)
    ]
    line_height, bars_height = 1.75 * SIZE / 72, 1.3
    width, heights = COLUMNS * LETTER * SIZE / 72, [it * line_height for it in lines]
    figure = Figure(figsize=(width + 0.4, sum(heights) + len(lines) * (bars_height + 0.5) + 0.2))
    FigureCanvasAgg(figure)
    high, left = figure.get_figheight(), 0.2 / (width + 0.4)
    top = high - 0.2
    with any_letters():
        for words, masks, told, height, count in zip(laid, filled, follows, heights, lines, strict=True):
            axes = figure.add_axes((left, (top - height) / high, 1 - 2 * left, height / high))
            axes.set(xlim=(0, COLUMNS), ylim=(count, 0))
            axes.axis("off")
            for word in words:
                write_word(axes, word)
            if told:
                axes.text(0, count - 0.5, told, va="center", fontsize=SIZE - 1, color=GREY)
            top -= height + 0.2
            for slot, mask in enumerate(masks):
                across = (1 - 2 * left) / MASKS
                place = (left + slot * across, (top - bars_height) / high, 0.93 * across, (bars_height - 0.18) / high)
                draw_likeliest(figure.add_axes(place), slot + 1, mask)
            top -= bars_height + 0.3
        write_figure(figure, path)


def write_word(axes: Any, word: Word) -> None:
    style: dict[str, Any] = {"family": FONT, "fontsize": SIZE, "va": "center", "parse_math": False}
    if not word.number:
        axes.text(word.column, word.line + 0.5, word.text, color=GREY if word.text == "[SEP]" else "black", **style)
        return
    framed = {"boxstyle": "round,pad=0.18", "color": WRONG, "lw": 0}
    text = f"{word.number}: {word.text}"
    axes.text(word.column + 0.5, word.line + 0.5, text, color="white", weight="bold", bbox=framed, **style)


def draw_likeliest(axes: Any, number: int, mask: Filled) -> None:
    """Bars of the likeliest pieces, their names and shares written on them."""
    axes.set(xlim=(0, 1), ylim=(LIKELIEST - 0.4, -0.6), xticks=[], yticks=[])
    axes.set_title(f"{number}: {shortened(mask.was, 16)}", loc="left", fontsize=SIZE, pad=3, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, (piece, share) in enumerate(mask.told):
        is_right = piece == mask.was
        axes.barh(place, 1, height=0.86, color=PALE)
        axes.barh(place, share, height=0.86, color=RIGHT if is_right else WRONG, alpha=0.55)
        style: dict[str, Any] = {"va": "center", "fontsize": SIZE - 1, "parse_math": False}
        axes.text(0.03, place, shortened(piece, 14), weight="bold" if is_right else "normal", **style)
        axes.text(0.98, place, f"{share:.1%}", ha="right", **style)


def draw_attention(weights: Tensor, pieces: Sequence[str], path: Path) -> None:
    """weights: [layers, heads, L, L], rows that sum to one; a row of panels for each layer."""
    layers, heads, length, _ = weights.shape
    side = min(max(13 / heads, 1.6), 3.4)
    margin = 0.075 * max(map(len, pieces)) + 0.35  # for the tokens' names
    figure = Figure(figsize=(margin + heads * side + 0.9, margin + layers * side + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    size = min(SIZE, 0.8 * 72 * side / length)  # so that names do not run into one another
    images = []
    for layer in range(layers):
        for head in range(heads):
            axes = panels[layer, head]
            roots = weights[layer, head].numpy() ** 0.5  # since most of it is spread thinly
            images.append(axes.imshow(roots, cmap="Blues", vmin=0, vmax=1, interpolation="nearest"))
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=min(SIZE, 5 + 1.6 * side), pad=3)
            axes.tick_params(length=0, pad=2)
            axes.set_xticks(range(length), pieces, rotation=90, fontsize=size, parse_math=False)
            axes.set_yticks(range(length), pieces, fontsize=size, parse_math=False)
    ticks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    shrink = min(1.0, 4 / (layers * side))
    bar = figure.colorbar(images[0], ax=panels, ticks=[it**0.5 for it in ticks], shrink=shrink, aspect=25, pad=0.01)
    bar.ax.set_yticklabels([f"{it:.0%}" for it in ticks], fontsize=SIZE - 1)
    bar.set_label("of a row's attention", fontsize=SIZE - 1)
    with any_letters():
        write_figure(figure, path)


@contextmanager
def any_letters() -> Iterator[None]:
    """Letters that the font does not have are drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
