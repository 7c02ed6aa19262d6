from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from chi33.files.errors import InputError
from chi33.files.toml_reader import from_table, override, read_config, to_table


@dataclass(frozen=True)
class Filter:
    radius: float = 3.0
    exact: bool = False


@dataclass(frozen=True)
class Recipe:
    name: str = "plain"
    steps: int = 4
    kind: Literal["soft", "hard"] = "soft"
    limit: float | None = None
    span: tuple[float, float] | None = None
    width: Literal["auto"] | float = "auto"
    filter: Filter = field(default_factory=Filter)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    path = written(tmp_path, 'name = "größer"\nlimit = 2\n[filter]\nradius = 5\n')
    assert read_config(Recipe, path) == Recipe(name="größer", limit=2.0, filter=Filter(radius=5.0))
    assert isinstance(read_config(Recipe, path).filter.radius, float)
    assert read_config(Recipe, written(tmp_path, "")) == Recipe()


def test_a_config_survives_its_table() -> None:
    recipe = Recipe(steps=9, kind="hard", filter=Filter(exact=True))
    table = to_table(recipe)
    assert "limit" not in table
    assert from_table(Recipe, table, "here") == recipe
    assert from_table(Recipe, {"width": 3}, "here").width == 3.0
    assert from_table(Recipe, {"width": "auto"}, "here").width == "auto"


def test_options_override_and_what_is_not_given_stays() -> None:
    recipe = Recipe(steps=9)
    changed = override(recipe, {"name": None, "limit": 1, "filter.radius": 7, "filter.exact": None})
    assert changed == Recipe(steps=9, limit=1.0, filter=Filter(radius=7.0))
    assert recipe == Recipe(steps=9)


@pytest.mark.parametrize(("text", "message"), [
    ("stps = 3", "recipe.toml has an unknown key stps: did you mean steps?"),
    ("zzz = 3", "recipe.toml has an unknown key zzz: the keys are name, steps, kind, limit, span, width, filter."),
    ("[filter]\nradus = 3", "recipe.toml has an unknown key filter.radus: did you mean filter.radius?"),
    ("steps = 3.5", "steps in .*recipe.toml must be a whole number, got 3.5"),
    ("steps = true", "steps in .*recipe.toml must be a whole number, got True"),
    ('steps = "3"', "steps in .*recipe.toml must be a whole number, got '3'"),
    ("name = 3", "name in .*recipe.toml must be a text, got 3"),
    ("limit = true", "limit in .*recipe.toml must be a number, got True"),
    ("limit = [1]", r"limit in .*recipe.toml must be a number, got \[1\]"),
    ("span = [1.0]", r"span in .*recipe.toml must be a list of 2 values, got \[1.0\]"),
    ("span = [1, 2, 3]", "span in .*recipe.toml must be a list of 2 values"),
    ("span = 3", "span in .*recipe.toml must be a list, got 3"),
    ('kind = "smooth"', "kind in .*recipe.toml must be one of 'soft', 'hard', got 'smooth'"),
    ("kind = [1]", "kind in .*recipe.toml must be one of 'soft', 'hard'"),
    ('width = "wide"', "width in .*recipe.toml must be 'auto' or a number, got 'wide'"),
    ("width = true", "width in .*recipe.toml must be a number, got True"),
    ("filter = 3", "filter in .*recipe.toml must be a table, got 3"),
    ("[filter]\nexact = 1", "filter.exact in .*recipe.toml must be true or false, got 1"),
    ("steps = ", "recipe.toml is no valid TOML"),
    ("steps = 1\nsteps = 2", "recipe.toml is no valid TOML"),
])  # fmt: skip
def test_a_wrong_file_is_refused_by_key_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(Recipe, written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.toml cannot be read .*give a TOML file"):
        read_config(Recipe, tmp_path / "missing.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(Recipe, tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml cannot be read"):
        read_config(Recipe, binary)


def test_an_option_of_a_wrong_value_is_refused() -> None:
    with pytest.raises(InputError, match="steps in the options must be a whole number, got 'many'"):
        override(Recipe(), {"steps": "many"})
