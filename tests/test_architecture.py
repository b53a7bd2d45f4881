"""The import law: who may import whom, and what library code may name. No test here imports Keras."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "star_keras"
LEVELS = {
    "version": 0, "exceptions": 0, "files": 0, "optional": 0, "backend": 0,
    "guards": 0.1, "ops": 0.1, "groups": 0.2, "orbits": 0.2,
    "layers": 1, "losses": 1, "metrics": 1, "augmentation": 1, "data": 1,
    "models": 2, "training": 2, "evaluation": 2,
    "callbacks": 3, "architectures": 3, "applications": 3.1,
    "plots": 4, "recipes": 4, "reports": 4.1, "__main__": 4.2,
    "__init__": 5,
}  # fmt: skip
SIDEWAYS = {("evaluation", "models")}
NAMES_A_BACKEND = "backend.py"
LIBRARY = sorted(PACKAGE.rglob("*.py"))
OUTSIDE = sorted([*ROOT.glob("zoo/*/*.py"), *ROOT.glob("examples/**/*.py")])


def room(module):
    return module.split(".")[1] if module.count(".") else "__init__"


def imports(path):
    """Absolute names of everything a file imports, with `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write `from star_keras...`."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_no_import_points_up_or_sideways(path):
    own = relative(path).removesuffix(".py").split("/")[0]
    assert own in LEVELS, f"{path} is in no room; add `{own}` to LEVELS and to CONTRIBUTING.md."
    for module in imports(path):
        if not module.startswith("star_keras"):
            continue
        target = room(module)
        if target == own or target not in LEVELS:
            continue
        allowed = LEVELS[target] < LEVELS[own] or (own, target) in SIDEWAYS
        assert allowed, (
            f"{relative(path)} (level {LEVELS[own]}) imports {module} (level {LEVELS[target]}). What both "
            f"need belongs below them: in a room of a lower level than both."
        )


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_only_public_keras_and_one_file_names_a_backend(path):
    for module in imports(path):
        assert not module.startswith("keras.src"), f"{relative(path)} imports private Keras: {module}"
        if module.split(".")[0] in ("tensorflow", "jax", "torch"):
            assert relative(path) == NAMES_A_BACKEND, (
                f"{relative(path)} imports {module}; only {NAMES_A_BACKEND} may name a backend."
            )


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_recipes_and_examples_use_public_names(path):
    for module in imports(path):
        if module.startswith("star_keras"):
            assert module == "star_keras", f"{path} must `import star_keras as sk`. Received: {module}"


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_files_are_read_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{relative(path)} has {lines} lines; a file becomes a folder at 400."


def test_no_circle_between_modules():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in LIBRARY}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    edges = {
        name: {
            target
            for module in imports(path)
            for target in (module, module.rpartition(".")[0])
            if target in modules and target != name and not name.startswith(f"{target}.")
            and not target.startswith(f"{name}.")
        }
        for name, path in modules.items()
    }  # fmt: skip
    done, trail = set(), []

    def visit(name):
        assert name not in trail, f"circular import: {' -> '.join([*trail, name])}"
        if name in done:
            return
        trail.append(name)
        for target in sorted(edges[name]):
            visit(target)
        trail.pop()
        done.add(name)

    for name in sorted(edges):
        visit(name)
