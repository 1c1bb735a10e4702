"""Published files: fetched whole or not at all, checked against their md5, and told by name where they are missing."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import check_integrity, download_url

from foundation.errors import UserError
from foundation.places import check_download


@dataclass(frozen=True)
class Published:
    """A file of a data set.

    Args:
        place: its folder below the folder of all data sets, such as ``MNIST/raw``; empty: that folder itself.
        urls: where it can be fetched, tried in this order.
    """

    name: str
    md5: str
    place: str
    urls: tuple[str, ...]

    @property
    def known_by(self) -> str:
        """What a folder of all data sets has that holds this file."""
        return self.place or self.name

    def path_in(self, data_dir: Path) -> Path:
        return data_dir / self.place / self.name

    def fetch(self, data_dir: Path) -> None:
        """Download what is not there; it gets its name only once its checksum is right."""
        path = self.path_in(data_dir)
        if path.exists():
            return
        check_download(path)
        make_folder(path.parent)
        reasons = []
        for url in self.urls:
            with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
                try:
                    download_url(url, unfinished, filename=self.name, md5=self.md5)
                except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum a RuntimeError
                    reasons.append(f"{url}: {error}")
                else:
                    os.replace(Path(unfinished) / self.name, path)
                    return
        raise UserError(
            f"{self.name} is not in {path.parent} and could not be downloaded ({'; '.join(reasons)}). Fetch it by hand "
            f"and put it there, or set DATA_DIR or paths.data_dir to a folder that holds {self.known_by}."
        )

    def checked(self, data_dir: Path) -> Path:
        """Its path; a UserError where it is missing or corrupt."""
        path = self.path_in(data_dir)
        if not path.exists():
            raise UserError(
                f"{path} is missing: set DATA_DIR or paths.data_dir to the folder that holds {self.known_by}, "
                f"or fetch {self.urls[0]} by hand and put it there."
            )
        if not check_integrity(str(path), self.md5):
            raise UserError(
                f"{path} is corrupt (its md5 is not {self.md5}): delete it, and it is downloaded again "
                f"by the next run, or fetch {self.urls[0]} by hand."
            )
        return path


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error}): set DATA_DIR or paths.data_dir to another place."
        ) from None
