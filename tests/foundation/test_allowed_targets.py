"""Everything that a saved config may name is built with hostile paths and addresses: nothing of them is executed,
fetched or written."""

import gzip
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from finished.results import load_experiments
from foundation.security import CONF, named_by_conf, nodes_in
from launch.command_line import compose_job
from launch.config_check import Parameters

HARMFUL = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect",
           "socket.getaddrinfo", "urllib.Request", "exec", "ctypes.dlopen", "shutil.rmtree", "os.remove", "os.rename")  # fmt: skip
WATCHED: list[str] | None = None
OF_A_LIBRARY = ("find_class", "exec", "dlopen")  # which Python itself does as it imports


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED is None:
        return
    words = " ".join(map(str, arguments))
    if event == "os.remove" and arguments[1] not in (None, -1):  # a name in a folder that is open
        words = f"{os.readlink(f'/proc/self/fd/{arguments[1]}')}/{arguments[0]}"
    if event in ("open", "os.mkdir"):
        writes = event == "os.mkdir" or (arguments[1] or "r") != "r"
        if writes and "hostile" in words:
            WATCHED.append(f"{event} {words}")
    elif (event in HARMFUL and ("hostile" in words or not event.endswith(OF_A_LIBRARY))) or (
        event == "import" and "hostile" in words
    ):
        WATCHED.append(f"{event} {words}")


sys.addaudithook(watch)  # for the life of the process; without a list to write to it only looks


@contextmanager
def watched() -> Iterator[list[str]]:
    global WATCHED
    WATCHED = found = []
    try:
        yield found
    finally:
        WATCHED = None


class Harm:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def hostile(tmp_path: Path) -> list[Any]:
    """A file that executes code where it is unpickled, by its path and as a URL, an address, a place, an import."""
    path = tmp_path / "hostile.pth"
    path.write_bytes(pickle.dumps({"state_dict": Harm(tmp_path / "hostile_trace")}))
    values = [
        str(path),
        path.as_uri(),
        "http://127.0.0.1:9/hostile.pth",
        str(tmp_path / "hostile_out" / "x"),
        "hostile.run",
    ]
    return [*values, [str(path)], {"hostile": str(path)}]


@pytest.fixture(scope="module", autouse=True)
def short_texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data that are here, of a long text its first lines: each is read for every value of every argument."""
    here, short = Path(os.environ.get("DATA_DIR", "data")).resolve(), tmp_path_factory.mktemp("data")
    for path in here.rglob("*") if here.is_dir() else ():
        if path.is_dir():
            continue
        place = short / path.relative_to(here)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz" and path.is_relative_to(here / "text"):
            with gzip.open(path) as long, gzip.open(place, "wb") as cut:
                cut.writelines(islice(long, 300))
        else:
            place.symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(short))
        yield


@cache
def nodes(methods: bool) -> dict[str, dict[str, Any]]:
    """An example of each target from the choices of ``conf/`` and, of methods, the experiments."""
    chosen = ",".join(sorted(it.stem for it in (CONF / "callbacks").glob("*.yaml")))
    words = [[f"callbacks=[{chosen}]"], ["trainer=ddp"]]
    words += [[f"datamodule={it.stem}"] for it in sorted((CONF / "datamodule").glob("*.yaml"))]
    if methods:
        words += [[f"experiment={it['name']}"] for it in load_experiments(CONF)]
    found: dict[str, dict[str, Any]] = {}
    for it in words:
        for _, node in nodes_in(compose_job("train", it), ""):
            found.setdefault(node["_target_"], dict(node))
    return found


def build(node: dict[str, Any]) -> None:
    with torch.device("meta"), warnings.catch_warnings(), suppress(Exception):  # what it says of such a value
        warnings.simplefilter("ignore")
        made = instantiate(OmegaConf.create(node), _convert_="all")
        if callable(load := getattr(made, "load", None)):
            load()


def of_a_method(target: str) -> bool:
    return target.startswith("lightning_modules.")


TARGETS = [pytest.param(it, marks=[pytest.mark.slow] if of_a_method(it) else []) for it in sorted(named_by_conf())]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_hostile_is_executed_fetched_or_written(target, hostile, tmp_path, tmp_path_factory):
    node, cache = nodes(of_a_method(target)).get(target, {"_target_": target}), tmp_path_factory.mktemp("cache")
    if "cache_dir" in node:  # where real data are here, it is written to
        node = {**node, "cache_dir": str(cache)}
    # Where decoded images are kept is no folder's to say: test_places.py has the place of this machine in its stead.
    names = [it for it in Parameters.of(get_object(target)).hints if it not in ("self", "cache_dir")]
    with watched() as found:
        for name in names:
            for value in hostile:
                build({**node, name: value, "_partial_": False})
    assert not [it for it in found if "hostile" in it or str(cache) not in it]
    assert not (tmp_path / "hostile_trace").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.pth"]


def test_the_watch_sees_what_it_looks_for(hostile):
    """A class of a library that a saved config could name once."""
    with watched() as found, suppress(Exception):
        torch.load(hostile[0], weights_only=False)
    assert any(it.startswith("pickle.find_class") or "mkdir" in it for it in found)
