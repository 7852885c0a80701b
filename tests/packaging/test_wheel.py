"""What is built from a checkout: sdist, wheel and editable installation, with the links of `rscc_hf/` and without."""

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import watched

ROOT = Path(__file__).resolve().parents[2]
LINKS: tuple[str, ...] = runpy.run_path(str(ROOT / "rscc_hf" / "links.py"))["LINKS"]
# as a front end such as pip calls it, in the environment of the tests: nothing is downloaded
BUILD = (
    "import sys; from setuptools import build_meta; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
)
# A sub-package that no list names, with every kind of data, and what must stay out.
PLANTED = {
    "training/planted/__init__.py": "",
    "training/planted/deeper/__init__.py": "",
    "training/planted/deeper/module.py": "",
    "training/planted/deeper/recipe.yaml": "learning_rate: 1\n",
    "rscc_hf/planted/__init__.py": "",
    "rscc_hf/planted/page.html.jinja": "",
}
STRAY = {"tests/test_stray.py": "", "stray/__init__.py": "", "benchmarks/stray.py": ""}
pytestmark = pytest.mark.skipif(
    int(version("setuptools").split(".")[0]) < 77, reason="an older setuptools than pyproject.toml asks for"
)


def copy_checkout(to: Path, more: dict[str, str] | None = None) -> Path:
    """Copy what is built from, links as links, and write further files."""
    for name in ("rscc_hf", *LINKS):
        shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, to)
    for name, text in (more or {}).items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(text)
    return to


def build(kind: str, source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build an `sdist`, a `wheel` or an `editable` wheel of a folder into another."""
    return watched.run([sys.executable, "-c", BUILD, kind, to], cwd=source, capture_output=True, text=True)


def built(kind: str, source: Path, to: Path) -> Path:
    """Build, and return the file."""
    to.mkdir(exist_ok=True)
    done = build(kind, source, to)
    assert done.returncode == 0, done.stderr
    return to / done.stdout.splitlines()[-1]


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"), PLANTED | STRAY)


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", checkout, tmp_path_factory.mktemp("wheel"))


def test_the_links_are_those_that_are_looked_at() -> None:
    links = {path.name: path.readlink() for path in (ROOT / "rscc_hf").iterdir() if path.is_symlink()}
    assert links == {name: Path("..", name) for name in LINKS}


def test_the_wheel_holds_the_whole_package_and_nothing_else(checkout: Path, wheel: Path) -> None:
    package = {
        path.relative_to(checkout).as_posix()
        for here, _, names in os.walk(checkout / "rscc_hf", followlinks=True)
        for path in (Path(here, name) for name in names)
        if path.name != "README.md"
    }
    assert len(package) > 150 and {name.replace("training/", "rscc_hf/training/") for name in PLANTED} <= package
    names = names_in(wheel)
    beside = {name for name in names if not name.startswith("rscc_hf/")}
    assert names - beside == package
    assert {name.split("/")[0] for name in beside} == {wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}
    with zipfile.ZipFile(wheel) as archive:
        top = next(name for name in beside if name.endswith("/top_level.txt"))
        assert archive.read(top) == b"rscc_hf\n"


def test_the_wheel_of_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive), "no links: not every system unpacks them"
        archive.extractall(tmp_path, filter="data")
    again = built("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "out")
    assert names_in(again) == names_in(wheel)
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        package = [name for name in one.namelist() if name.startswith("rscc_hf/")]
        assert all(one.read(name) == other.read(name) for name in package)


def test_the_sdist_holds_what_is_built_from_and_no_half_of_the_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    top = {name for name in names if "/" not in name} - {"."}
    assert top - {"rscc_hf.egg-info"} == {
        *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md"),
        *("pyproject.toml", "rscc_hf", "setup.cfg", "setup.py"),
    }


def test_an_editable_installation_warns_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pip")
    (tmp_path / "checkout").mkdir()
    checkout = copy_checkout(tmp_path / "checkout")
    # verbose, since older versions of pip show what setuptools says only then; the rest is about this machine
    how = ["--verbose", "--isolated", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    where = ["--ignore-installed", "--prefix", tmp_path / "there", "--no-warn-script-location"]
    command = [sys.executable, "-m", "pip", "install", *how, *where, "--root-user-action=ignore", "-e", checkout]
    done = watched.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "Successfully installed rscc_hf" in said
    assert not [
        line for line in said.splitlines() if any(word in line.lower() for word in ("warn", "careful", "may "))
    ]


def as_text(link: Path) -> None:
    """As git writes a link where there are none."""
    target = link.readlink()
    link.unlink()
    link.write_text(target.as_posix())


def left_out(link: Path) -> None:
    link.unlink()


def to_nowhere(link: Path) -> None:
    shutil.rmtree(link.resolve())


@pytest.mark.parametrize(
    ("lose", "name", "lost", "kinds"),
    [
        (as_text, "modeling", "rscc_hf/modeling", ("sdist", "wheel", "editable")),
        (left_out, "training", "rscc_hf/training", ("wheel",)),
        (to_nowhere, "hub_cards", "rscc_hf/hub_cards hub_cards", ("wheel",)),
    ],
)
def test_without_links_building_and_importing_end_in_one_sentence(
    tmp_path: Path, lose: Callable[[Path], None], name: str, lost: str, kinds: tuple[str, ...]
) -> None:
    checkout = copy_checkout(tmp_path)
    lose(checkout / "rscc_hf" / name)
    sentence = f"{checkout / 'rscc_hf' / name} leads to no folder"
    for kind in kinds:
        done = build(kind, checkout, tmp_path / "out")
        assert done.returncode == 1 and not list((tmp_path / "out").glob("*"))
        assert done.stderr.startswith(f"error: {sentence}") and done.stderr.count("\n") == 1

    command = [sys.executable, "-c", "import rscc_hf.modeling"]
    said = watched.run(command, cwd=checkout, capture_output=True, text=True).stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: {sentence}") and "wheel" in said
    assert f"run `git config core.symlinks true` and `git checkout -- {lost}` in the checkout" in said


def test_the_sentence_names_all_that_is_lost(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    for name in LINKS:
        as_text(checkout / "rscc_hf" / name)
    with pytest.raises(ImportError, match=f"checkout -- {' '.join(f'rscc_hf/{name}' for name in LINKS)}`"):
        runpy.run_path(str(checkout / "rscc_hf" / "links.py"))


@pytest.mark.slow
def test_an_installed_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import rscc_hf; from importlib.resources import files; "
        "print(rscc_hf.ChangeCaptioner.__name__, rscc_hf.__file__, "
        "*(part.name for room in ('training.recipes', 'hub_cards') for part in files(f'rscc_hf.{room}').iterdir()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-P", "-c", code]
    done = watched.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    name, file, *parts = done.stdout.split()
    assert name == "ChangeCaptioner" and Path(file) == tmp_path / "site" / "rscc_hf" / "__init__.py"
    assert {"mmodalcc_synthetic.yaml", "model_card.md.jinja"} <= set(parts)
