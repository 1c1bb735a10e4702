"""What makes a run's tree another than its commit, and the patch that brings it back; on small repositories."""

import subprocess
from pathlib import Path

import pytest

from foundation import source_tree as under_test
from foundation.source_tree import MOST_BYTES, git, is_secret_name, source_tree, warning, write_patch

FILES = {
    ".gitignore": ".venv\n__pycache__/\n*.local.yaml\n",
    "README.md": "read me\n",
    "pyproject.toml": "[project]\n",
    "conf/train.yaml": "seed: 0\n",
    "conf/experiment/old.yaml": "name: old\n",
    "lightning_modules/old.py": "RATE = 1\n",
    "finished/report.py": "TITLE = 'run'\n",
}


def run(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def root(tmp_path):
    under_test.first_look.cache_clear()
    root = tmp_path / "project"
    write(root, FILES)
    run(root, "init", "-q")
    run(root, "add", "-A")
    run(root, "commit", "-qm", "first")
    yield root
    under_test.first_look.cache_clear()


def patched(root: Path, tmp_path: Path) -> dict[str, str]:
    """What a fresh checkout of the commit holds once the patch is applied."""
    write_patch(source_tree(root=root), tmp_path / "diff.patch", root)
    run(tmp_path, "clone", "-q", str(root), "again")
    if (tmp_path / "diff.patch").stat().st_size:
        run(tmp_path / "again", "apply", str(tmp_path / "diff.patch"))
    files = (it for it in (tmp_path / "again").rglob("*") if it.is_file() and ".git" not in it.parts)
    return {it.relative_to(tmp_path / "again").as_posix(): it.read_text() for it in files}


def test_a_method_of_five_new_files_is_in_the_patch(root, tmp_path):
    five = {
        "lightning_modules/mine.py": "RATE = 2\n",
        "conf/lightning_module/mine.yaml": "rate: 2\n",
        "conf/experiment/mine_digits.yaml": "name: mine_digits\n",
        "tests/lightning_modules/test_mine.py": "def test_rate(): ...\n",
        "docs/methods/mine.md": "# Mine\n",
    }
    write(root, five | {"lightning_modules/old.py": "RATE = 3\n"})
    tree = source_tree(root=root)
    assert tree.clean is False
    assert tree.names() == [
        "conf/experiment/mine_digits.yaml (new)", "conf/lightning_module/mine.yaml (new)",
        "lightning_modules/mine.py (new)", "lightning_modules/old.py"]  # fmt: skip
    counting = {name: five[name] for name in list(five)[:3]}
    assert patched(root, tmp_path) == FILES | counting | {"lightning_modules/old.py": "RATE = 3\n"}


def test_what_was_removed_renamed_or_staged_counts_too(root, tmp_path):
    (root / "conf" / "experiment" / "old.yaml").rename(root / "conf" / "experiment" / "new name.yaml")
    write(root, {"lightning_modules/empty.py": "", "pyproject.toml": "[tool]\n"})
    run(root, "add", "-A")
    assert source_tree(root=root).changes == {
        "conf/experiment/old.yaml": "changed", "conf/experiment/new name.yaml": "changed",
        "lightning_modules/empty.py": "changed", "pyproject.toml": "changed"}  # fmt: skip
    expected = FILES | {"conf/experiment/new name.yaml": FILES["conf/experiment/old.yaml"],
                        "lightning_modules/empty.py": "", "pyproject.toml": "[tool]\n"}  # fmt: skip
    assert patched(root, tmp_path) == {name: it for name, it in expected.items() if name != "conf/experiment/old.yaml"}


@pytest.mark.parametrize(
    "name",
    ["note.md", "scratch.py", "notebooks/look.ipynb", "conf/notes.txt", "docs/page.md", "README.md", ".env", "key.pem",
     "finished/report.py", "tests/test_new.py", "results/run.json", "conf/mine.local.yaml"],
)  # fmt: skip
def test_what_no_run_reads_costs_no_run(root, tmp_path, name):
    write(root, {name: "anything = 1\n"})
    tree = source_tree(root=root)
    assert (tree.clean, tree.changes) == (True, {})
    assert warning(tree, {}, tmp_path) is None


def test_a_link_to_an_environment_is_ignored_as_a_folder_is(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / ".venv").symlink_to(tmp_path / "elsewhere")
    assert source_tree(root=root).clean is True
    assert ".venv" in Path(".gitignore").read_text().split()


def test_what_git_was_told_to_hide_counts_all_the_same(root):
    run(root, "config", "status.showUntrackedFiles", "no")
    write(root, {"callbacks/mine.py": "MORE = 1\n"})
    assert source_tree(root=root).changes == {"callbacks/mine.py": "new"}


def test_a_file_beside_the_rooms_counts_once_it_is_imported(root, tmp_path, monkeypatch):
    write(root, {"mine/__init__.py": "", "mine/net.py": "WIDTH = 3\n", "mine/unused.py": "", "hidden/deep.py": ""})
    (root / ".git" / "info" / "exclude").write_text("hidden/\n")
    modules = {name: type("Module", (), {"__file__": str(root / name)}) for name in ("mine/net.py", "hidden/deep.py")}
    modules["torch.ops"] = type("Module", (), {"__file__": "_ops.py"})  # as torch has it
    monkeypatch.chdir(root)
    for name, module in modules.items():
        monkeypatch.setitem(under_test.sys.modules, name, module)
    tree = source_tree(root=root)
    assert tree.changes == {"mine/net.py": "new", "hidden/deep.py": "ignored by git"}
    assert write_patch(tree, tmp_path / "diff.patch", root) == {"hidden/deep.py": "ignored by git"}
    assert patched(root, tmp_path)["mine/net.py"] == "WIDTH = 3\n"


def test_a_module_that_names_a_file_which_is_nowhere_does_not_count(root, monkeypatch):
    """As torch.ops and torch.classes do, by a name without a folder."""
    monkeypatch.chdir(root)
    monkeypatch.setitem(under_test.sys.modules, "torch.classes", type("Module", (), {"__file__": "_classes.py"}))
    assert source_tree(root=root).clean is True


def test_configs_from_other_folders_count_as_those_of_conf(root, tmp_path):
    write(root, {"my_conf/experiment/mine.yaml": "name: mine\n", "my_conf/notes.txt": ""})
    tree = source_tree([root / "conf", root / "my_conf", tmp_path / "far"], root)
    assert tree.changes == {
        "my_conf/experiment/mine.yaml": "new", str(tmp_path / "far"): "configs from outside the project"}  # fmt: skip


def test_a_process_that_outlives_its_commit_has_none(root):
    assert source_tree(root=root).clean is True
    before = git("rev-parse", "HEAD", root=root)
    write(root, {"lightning_modules/old.py": "RATE = 5\n"})
    run(root, "commit", "-qam", "second")
    tree = source_tree(root=root)
    assert tree.commit != before
    assert tree.clean is False
    assert tree.changes.keys() == {"the commit"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("conf/logger/api_key.yaml", "wandb: 1\n"),
        ("conf/logger/my-token.yaml", "wandb: 1\n"),
        ("conf/paths/secrets.yaml", "a: 1\n"),
        ("conf/paths/keys.yaml", "a: 1\n"),
        ("callbacks/credentials.py", "A = 1\n"),
        ("conf/logger/mine.yaml", f"api_key: {'0a' * 20}\n"),
        ("conf/logger/mine.yaml", f"settings:\n  key: {'0a' * 20}\n"),
        ("callbacks/mine.py", "login(token='abcdefgh12345678')\n"),
        ("callbacks/mine.py", f"HUB = 'hf_{'x1' * 12}'\n"),
        ("conf/train.yaml", f"seed: 0\npassword: {'q9' * 10}\n"),
    ],
)
def test_no_secret_goes_into_the_patch(root, tmp_path, name, content):
    write(root, {name: content, "lightning_modules/mine.py": "RATE = 2\n"})
    tree = source_tree(root=root)
    left_out = write_patch(tree, tmp_path / "diff.patch", root)
    assert left_out == {name: "may hold a secret"}
    assert content.splitlines()[-1] not in (tmp_path / "diff.patch").read_text()
    assert f"without {name} (may hold a secret)" in str(warning(tree, left_out, tmp_path / "diff.patch"))


@pytest.mark.parametrize(
    "name", ["datamodules/text/tokens.py", "callbacks/keypoints.py", "conf/experiment/monkey.yaml"]
)
def test_code_about_tokens_and_keys_is_no_secret(root, tmp_path, name):
    write(root, {name: "mask_token: vocabulary.special_tokens_2\nkey = keys[0]\n"})
    assert not is_secret_name(name)
    assert write_patch(source_tree(root=root), tmp_path / "diff.patch", root) == {}
    assert name in patched(root, tmp_path)


def test_a_patch_has_a_largest_size(root, tmp_path):
    write(root, {"lightning_modules/large.py": "#" * (MOST_BYTES + 1), "lightning_modules/small.py": "RATE = 2\n"})
    assert write_patch(source_tree(root=root), tmp_path / "diff.patch", root) == {
        "lightning_modules/large.py": "too large"
    }
    assert patched(root, tmp_path)["lightning_modules/small.py"] == "RATE = 2\n"


def test_the_line_at_the_start_names_what_is_not_committed(root, tmp_path):
    write(root, {f"callbacks/new{number}.py": "" for number in range(7)})
    told = warning(source_tree(root=root), {}, Path("outputs/run/diff.patch"))
    assert told == (
        "Not committed: callbacks/new0.py (new), callbacks/new1.py (new), callbacks/new2.py (new), callbacks/new3.py "
        "(new), callbacks/new4.py (new) and 2 more. No commit stands for this run, so `make record` would refuse it; "
        "outputs/run/diff.patch keeps the changes."
    )


def test_a_project_in_a_folder_of_a_larger_checkout_minds_its_own_files(root, tmp_path):
    inner = root / "inner"
    write(root, {"inner/conf/train.yaml": "seed: 0\n"})
    run(root, "add", "-A")
    run(root, "commit", "-qm", "inner")
    write(root, {"inner/conf/train.yaml": "seed: 1\n", "inner/launch/mine.py": "A = 1\n", "launch/other.py": ""})
    assert source_tree(root=inner).changes == {"conf/train.yaml": "changed", "launch/mine.py": "new"}


def test_outside_a_checkout_no_commit_stands(tmp_path):
    tree = source_tree(root=tmp_path)
    assert (tree.commit, tree.clean) == (None, None)
    assert "no git checkout" in str(warning(tree, {}, tmp_path))
