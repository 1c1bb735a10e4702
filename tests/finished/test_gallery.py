"""The page of all methods."""

import json
import re
import shutil

import pytest
from PIL import Image

from finished import gallery
from finished.tables import ROOT
from tests.finished.browser import WIDTHS, Seen, seen

RUN = {
    "experiment": "resnet_digits", "seed": 0, "overrides": ["experiment=resnet_digits"], "iterations": 440,
    "data": {"name": "digits", "split": "test"}, "metrics": {"test/error": 0.0123}, "wall_time_s": {"fit": 1.0},
    "curves": {"val/error": [[10, 0.5], [440, 0.02]]},
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A repository of one method."""
    for name in ("results", "docs/methods", "docs/pictures", "conf/experiment", "conf/lightning_module"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "conf/experiment/resnet_digits.yaml", tmp_path / "conf/experiment")
    shutil.copy(ROOT / "conf/lightning_module/resnet.yaml", tmp_path / "conf/lightning_module")
    (tmp_path / "README.md").write_text("![The front](docs/pictures/resnet_digits_front.png)\n")
    page = "# Res<Net>\n\n*Deep\nlearning*, 2015,\n[arXiv:1512.03385](https://arxiv.org/abs/1512.03385).\n```\n"
    page += "python train.py experiment=resnet_digits    # seconds\n```\n![One & two](../pictures/resnet_digits.png)\n"
    (tmp_path / "docs/methods/resnet.md").write_text(page)
    for name in ("resnet_digits_front", "resnet_digits"):
        Image.new("RGB", (1500, 30), (200, 10, 10)).save(tmp_path / f"docs/pictures/{name}.png")
    for seed in range(3):
        run = RUN | {"seed": seed, "metrics": {"test/error": 0.01 + seed / 100}}
        (tmp_path / f"results/resnet_digits-{seed}-abc.json").write_text(json.dumps(run))
    return tmp_path


def test_a_method_has_its_paper_figure_pictures_curve_and_command(root, capsys):
    assert gallery.main([], root) == 0
    page = (root / "docs/gallery.html").read_text()
    assert "Res&lt;Net&gt;" in page
    assert "Deep learning, 2015" in page
    assert "https://arxiv.org/abs/1512.03385" in page
    assert "0.020 ± 0.010" in page
    assert "3 seeds (mean and spread)" in page
    assert "<pre>python train.py experiment=resnet_digits</pre>" in page
    assert page.index('alt="The front"') < page.index('alt="One &amp; two"')
    assert "val/error over iterations" in page
    assert "1 of 1 methods" in page
    assert set(re.findall(r'(?:src|href)="([a-z]+:|[^"]*)', page)) == {"data:", "https:", "methods/resnet.md"}


def test_it_agrees_with_results_and_pictures_or_says_so(root, capsys):
    assert gallery.main(["--check"], root) == 1
    gallery.main([], root)
    assert gallery.main(["--check"], root) == 0
    page = root / "docs/gallery.html"
    page.write_text(page.read_text().replace("base64,", "base64,AAAA"))  # as another version compresses
    assert gallery.main(["--check"], root) == 0
    Image.new("RGB", (30, 30)).save(root / "docs/pictures/resnet_digits.png")
    assert gallery.main(["--check"], root) == 1
    gallery.main([], root)
    (root / "results/resnet_digits-2-abc.json").unlink()
    assert gallery.main(["--check"], root) == 1
    assert "run `make gallery`" in capsys.readouterr().err


def test_below_three_seeds_there_is_no_spread(root):
    (root / "results/resnet_digits-2-abc.json").unlink()
    page = gallery.page_of(gallery.methods(root))
    assert "0.0100, 0.0200" in page
    assert "±" not in page


def test_the_project_s_page_asks_for_nothing():
    page = (ROOT / "docs/gallery.html").read_text()
    assert re.findall(r'src="(?!data:image)|url\(|@import|<(?:script|link|iframe|object)', page) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_it_without_a_word_and_nothing_is_wider_than_the_window(width, tmp_path):
    page = (ROOT / "docs/gallery.html").read_text()
    assert seen(page, width, tmp_path) == Seen(wider=0, requests=[], pictures=page.count("<img "), console=[])
