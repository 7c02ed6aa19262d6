from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import chi33
import pytest
from chi33.cli.main import COMMANDS

ROOT = Path(chi33.__file__).resolve().parent
FOLDERS = ("files", "pipeline", "workflows", "datasets", "training", "cli")
MAY_IMPORT = {
    "files": {"files", "pipeline"},
    "pipeline": {"files", "pipeline"},
    "workflows": {"files", "pipeline", "workflows"},
    "datasets": {"files", "pipeline", "datasets"},
    "training": {"files", "pipeline", "datasets", "training"},
    "cli": set(FOLDERS),
}
FILES_MAY_USE = ("pipeline.frames", "pipeline.images.fine_structure")  # what files need of the physics
PIPELINE_MAY_USE = ("files.errors",)
RUN_TOOLS_ON_FILES = ("pipeline/phase/unwrap.py", "pipeline/masks/bet.py", "pipeline/masks/deepbet.py")
HEAVY = ("torch", "lightning", "nipype", "SimpleITK", "h5py", "matplotlib", "dask", "numba", "nilearn", "pydicom")


def modules() -> list[Path]:
    return [ROOT / "__init__.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]


def imported(path: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """The absolute dotted names that a module imports anywhere in it, relative imports resolved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["chi33", *path.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(tree) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            names |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder: str) -> None:
    paths = [path for path in modules() if path.relative_to(ROOT).parts[0] == folder]
    assert paths
    for path in paths:
        reached = {name.split(".")[1] for name in imported(path) if name.startswith("chi33.")} & set(FOLDERS)
        assert reached <= MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {reached - MAY_IMPORT[folder]}"


def uses(path: Path) -> set[str]:
    """The modules of this package that a module imports, dotted, without "chi33."."""
    known = {".".join(one.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for one in modules()}
    names = {name.removeprefix("chi33.") for name in imported(path) if name.startswith("chi33.")}
    return {name for name in names if name in known and not any(other.startswith(f"{name}.") for other in names)}


def test_files_are_the_ground_floor() -> None:
    for path in modules():
        folder, name = path.relative_to(ROOT).parts[0], path.relative_to(ROOT).as_posix()
        if folder == "files":
            reached = {one for one in uses(path) if one.startswith("pipeline.")}
            assert reached <= set(FILES_MAY_USE), name
        elif folder == "pipeline" and name not in RUN_TOOLS_ON_FILES:
            reached = {one for one in uses(path) if one.startswith("files.")}
            assert reached <= set(PIPELINE_MAY_USE), name


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph, the first node again at its end; empty where there is none."""
    done: set[str] = set()

    def walk(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node not in done:
            for following in sorted(graph.get(node, ())):
                if found := walk(following, [*trail, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): uses(path)
        for path in modules()
    }
    assert circle(graph) == []


def test_a_circle_would_be_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_private_name_of_another_package_is_imported() -> None:
    for path in modules():
        package = ".".join(["chi33", *path.relative_to(ROOT).parent.parts])
        for name in imported(path):
            owner, _, last = name.rpartition(".")
            private = last.startswith("_") and not last.startswith("__")
            inside = owner == package or owner.startswith(f"{package}.") or not name.startswith("chi33.")
            assert inside or not private, f"{path.relative_to(ROOT)} imports {name}"


def test_a_folder_can_be_taken_in_at_a_glance() -> None:
    for package in packages():
        if package.relative_to(ROOT).parts[:1] and package.relative_to(ROOT).parts[0] != "cli":
            assert len([path for path in package.glob("*.py") if path.name != "__init__.py"]) <= 16, package


def test_inside_the_package_imports_are_relative() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in ("chi33", *FOLDERS), path
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"chi33", *FOLDERS}, path


def test_an_import_against_the_arrows_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pipeline" / "fits" / "wrong.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "def f():\n    from ...workflows.raw import find\n    from ... import training\n    import torch.nn\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    names = imported(path)
    assert {"chi33.workflows.raw", "chi33.training", "torch.nn"} <= names


def test_commands_and_their_help_import_nothing_heavy() -> None:
    # One process: after each --help the heavy packages must still be unloaded.
    script = (
        "import contextlib, io, json, sys\n"
        "import chi33.cli.main as m\n"
        f"heavy = {HEAVY!r}\n"
        "found = {'import': [h for h in heavy if h in sys.modules]}\n"
        "for name in ['', *m.COMMANDS]:\n"
        "    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n"
        "        try:\n"
        "            m.main([*([name.replace('_', '-')] if name else []), '--help'])\n"
        "        except SystemExit as stop:\n"
        "            assert not stop.code, (name, stop.code)\n"
        "    assert 'chi33' in out.getvalue(), (name, out.getvalue())\n"
        "    found[name or 'chi33'] = [h for h in heavy if h in sys.modules]\n"
        "print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"import", "chi33", *COMMANDS}
    assert all(loaded == [] for loaded in found.values()), found


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1"}


def packages() -> list[Path]:
    return [ROOT, *(path.parent for folder in FOLDERS for path in sorted((ROOT / folder).rglob("__init__.py")))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources so that nothing is written into them."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    patterns = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.h5", "*.nii.gz")
    at_root = {"build", "dist", "demo"}  # made by commands; datasets/build is part of the package
    shutil.copytree(
        ROOT, source, ignore=lambda at, names: patterns(at, names) | (at_root if Path(at) == ROOT else set())
    )
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_of_every_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"chi33/{path.relative_to(ROOT).as_posix()}" for package in packages() for path in package.glob("*.py")}
    assert len(packages()) >= 8
    assert held == expected | {"chi33/py.typed"}


def test_every_folder_of_modules_is_a_package() -> None:
    for path in modules():
        assert (path.parent / "__init__.py").exists(), path


def test_the_wheel_carries_its_command_licence_and_version(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    metadata = wheel.read(next(n for n in names if n.endswith("dist-info/METADATA"))).decode()
    entry = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert f"\nVersion: {chi33.__version__}\n" in metadata
    assert "chi33 = chi33.cli.main:main" in entry
    assert any(n.endswith("LICENSE") for n in names)


def test_the_version_is_that_of_the_changelog_and_the_citation() -> None:
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heading
    assert heading.group(1) == chi33.__version__
    cited = re.search(r"^version: ['\"]?([\w.]+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited
    assert cited.group(1) == chi33.__version__


def test_every_test_is_collected() -> None:
    folder = ROOT / "tests" / "datasets"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=ROOT)
    files = sorted((folder / "build").glob("test_*.py"))  # a folder of this name is left out by pytest's own settings
    assert files
    assert all(path.name in done.stdout for path in files), done.stdout


def test_files_stay_readable_and_have_names() -> None:
    for path in modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path
        assert path.stem not in ("utils", "helpers", "common"), path
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} says nothing of itself"
