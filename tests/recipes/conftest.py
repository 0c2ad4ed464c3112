"""Access to the modules of `recipes/tile-defects`, which are scripts beside each other and no package."""

import importlib
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RECIPE = PROJECT / "recipes" / "tile-defects"
TILES = PROJECT / "../shared/data/tiles"


@pytest.fixture
def recipe(monkeypatch):
    """Imports a module of the recipe by name; afterwards none of them stays importable."""
    pytest.importorskip("cv2", reason="recipes need OpenCV: pip install -e '.[train]'")
    names = {path.stem for path in RECIPE.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    monkeypatch.syspath_prepend(RECIPE)
    yield importlib.import_module
    for name in names & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def tiles():
    """The folder with the public pictures."""
    if not TILES.is_dir():
        pytest.skip(f"the public tile pictures are not at {TILES} (see recipes/tile-defects/README.md)")
    return TILES
