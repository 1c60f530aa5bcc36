"""The shape of the package: who imports whom, how long things get, what start-up costs."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from processes import run_python

import clipguard

PACKAGE = Path(clipguard.__file__).parent
ORDER = (  # DESIGN: a package imports only from those below it
    "cli",
    "lab",
    "audit",
    "purify",
    "detect",
    "report",
    "export",
    "search",
    "probe",
    "model",
    "checkpoint",
    "policy",
    "bundled",
    "record",
    "files",
    "registry",
    "resources",
    "stopping",
    "text_safety",
    "errors",
)
RANK = {name: len(ORDER) - i for i, name in enumerate(ORDER)}
METHOD_FOLDERS = (
    "lab.attacks",
    "lab.comparators",
    "lab.negatives",
    "purify.methods",
    "report.formats",
    "search.families",
    "search.inverters",
)
MAX_MODULES = 8  # at the top level, __init__ and __main__ among them
MAX_FILE = 300
MAX_FUNCTION = 60
# Declarations with their documentation and no logic; one place to look a word up beats two.
VOCABULARY = {"record/__init__.py": 540}
TORCH_FREE = (
    "checkpoint.bubblewrap",
    "checkpoint.child",
    "checkpoint.contents",
    "checkpoint.guarded",
    "checkpoint.inspection",
    "checkpoint.known_shapes",
    "checkpoint.layouts",
    "checkpoint.raw",
    "checkpoint.reply",
    "checkpoint.safetensors_header",
    "checkpoint.sandbox",
    "checkpoint.unpickle",
    "policy",
    "record",
    "report.blocks",
    "report.findings",
    "report.formats",
    "report.outputs",
    "report.sections",
)
HEAVY = {
    "jinja2",
    "numpy",
    "onnx",
    "onnxruntime",
    "pydantic",
    "ruamel",
    "scipy",
    "sklearn",
    "torch",
}

FILES = {
    ".".join(("clipguard", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> set[str]:
    """Modules of clipguard that `tree` imports, anywhere in it, for types only included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else str(node.module))
    return names & MODULES.keys()


def folder_of(name: str) -> str:
    """The method folder that module `name` lies in, if it lies in one."""
    inner = name.removeprefix("clipguard.")
    return next((folder for folder in METHOD_FOLDERS if inner.startswith(f"{folder}.")), "")


def complaints(importer: str, imported: str) -> list[str]:
    """What is wrong with module `importer` using module `imported`; dotted names."""
    part, other = importer.split(".")[1], imported.split(".")[1]
    wrong = []
    if part != other and RANK[other] >= RANK[part]:
        wrong.append(f"{importer} must not import {imported}: it lies above, or beside")
    mine, theirs = folder_of(importer), folder_of(imported)
    if mine and theirs and not imported.rpartition(".")[2].startswith("_"):
        wrong.append(f"{importer} must not import {imported}: no method imports another")
    return wrong


SMALL = {name: path for name, path in MODULES.items() if name.count(".") >= 1}
SMALL.pop("clipguard.__main__")


def test_the_top_level_holds_few_modules_and_the_packages():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_MODULES
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert folders | modules == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_from_those_below_it(package: str):
    inside = [name for name in SMALL if name.split(".")[1] == package]
    assert inside
    wrong = [
        text
        for name in inside
        for other in sorted(imports(parse(SMALL[name])) - {"clipguard", name})
        for text in complaints(name, other)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("clipguard.audit.pipeline", "clipguard.search.roles", True),
        ("clipguard.probe.load", "clipguard.bundled.artwork", True),
        ("clipguard.probe.load", "clipguard.audit.pipeline", False),
        ("clipguard.audit.pipeline", "clipguard.lab.attacks", False),
        ("clipguard.errors", "clipguard.registry", False),
        ("clipguard.lab.attacks.badnets", "clipguard.lab.attacks._place", True),
        ("clipguard.lab.attacks.badnets", "clipguard.lab.attacks.blended", False),
        ("clipguard.cli.scan", "clipguard.cli.show", True),
    ],
)
def test_the_rules_of_the_layers_catch_what_they_should(
    importer: str, imported: str, allowed: bool
):
    assert (complaints(importer, imported) == []) is allowed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import clipguard.errors", {"clipguard.errors"}),
        ("from clipguard import errors", {"clipguard.errors"}),
        ("from clipguard.errors import UsageError", {"clipguard.errors"}),
        ("def f():\n    from clipguard.cli.app import main", {"clipguard.cli.app"}),
        ("import torch", set()),
    ],
)
def test_an_import_is_seen_in_every_form(source: str, found: set[str]):
    assert imports(ast.parse(source)) == found


def test_no_module_imports_itself_through_others():
    # The front door imports what is behind it, when it is used.
    graph = {name: imports(parse(path)) - {name, "clipguard"} for name, path in SMALL.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_functions_stay_short(name: str):
    path = FILES[name]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    allowed = VOCABULARY.get(str(path.relative_to(PACKAGE)), MAX_FILE)
    assert lines <= allowed, f"{lines} lines, split it"
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines, split it"


@pytest.mark.parametrize("name", VOCABULARY)
def test_only_declarations_may_fill_a_long_file(name: str):
    logic = (ast.For, ast.While, ast.If, ast.Try, ast.With, ast.comprehension)
    lines = [n.lineno for n in ast.walk(parse(PACKAGE / name)) if isinstance(n, logic)]
    assert len(lines) <= 3, f"logic in a vocabulary file, at lines {lines}"


METHODS = [
    name
    for name, path in SMALL.items()
    if folder_of(name) and path.stem != "__init__" and not path.stem.startswith("_")
]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_module_names_its_method_and_the_role_it_plays(name: str):
    roles = [
        ast.unparse(node.annotation)
        for node in parse(SMALL[name]).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "METHOD"
    ]
    assert len(roles) == 1, f"{name} must end with METHOD: type[Role] = ItsClass"
    assert roles[0].startswith("type["), f"METHOD of {name} must be typed, got {roles[0]}"


def test_building_the_command_line_imports_nothing_heavy():
    code = "import sys, clipguard.cli.app as app; app.build_app(); print(*sys.modules, sep='\\n')"
    loaded = {name.split(".")[0] for name in run_python("-c", code, code=0).stdout.splitlines()}
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_only_the_lab_needs_what_comes_with_its_extra():
    users = {
        name.split(".")[1]
        for name, path in SMALL.items()
        if re.search(r"^\s*(from|import) (scipy|sklearn)", path.read_text(encoding="utf-8"), re.M)
    }
    assert users == {"lab"}


def test_help_takes_less_than_a_second_of_processor_time():
    resource = pytest.importorskip("resource")  # Unix only

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    assert "Usage" in run_python("-m", "clipguard", "--help", code=0).stdout
    assert spent() - before < 1.0


def test_deciding_and_rendering_work_where_torch_is_not_installed():
    wanted = [name for name in SMALL if name.removeprefix("clipguard.").startswith(TORCH_FREE)]
    lines = "\n".join(f"import {name}" for name in wanted)
    run_python("-c", f"import sys\nsys.modules['torch'] = None\n{lines}", code=0)
